//! What the stand-in for Kinesis never does: throttling, and taking only a part of a request.

use std::collections::VecDeque;
use std::fmt;
use std::io::{self, BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

/// An HTTP server that passes the calls of the Kinesis API on, and answers some of them itself.
///
/// It ends when it is dropped. Its threads block; what it speaks is HTTP/1.1, so enhanced fan-out does not pass.
pub struct KinesisFaults {
    shared: Arc<Shared>,
    address: SocketAddr,
}

/// One call that came by.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Call {
    /// The operation: `PutRecords`.
    pub operation: String,
    /// The partition keys of a `PutRecords`, in order; empty for other operations.
    pub keys: Vec<String>,
    /// How many bytes of data and keys a `PutRecords` has.
    pub bytes: usize,
}

/// When a connection ends in the middle of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HangUp {
    /// Before the service had the call.
    Before,
    /// When the service has done what the call says, and before its answer.
    After,
}

#[derive(Debug)]
struct Shared {
    target: String,
    ended: AtomicBool,
    state: Mutex<State>,
    /// Something that is held may be so no longer.
    released: Condvar,
}

#[derive(Debug, Default)]
struct State {
    calls: Vec<Call>,
    /// The operation, the code, and how often.
    failures: VecDeque<(String, String, usize)>,
    /// Which records of the next requests are refused: a number of requests, and the rule.
    partial: VecDeque<(usize, Partial)>,
    /// The operation, when its connection ends, and how often.
    hang_ups: VecDeque<(String, HangUp, usize)>,
    /// The operations that are not answered.
    held: Vec<String>,
}

/// What becomes of a call.
enum Fate {
    Passes,
    Fails(String),
    IsTakenInPart(Partial),
    HangsUp(HangUp),
}

type Rule = Arc<dyn Fn(usize, &str) -> bool + Send + Sync>;

struct Partial {
    code: String,
    refuses: Rule,
}

impl fmt::Debug for Partial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Partial").field("code", &self.code).finish_non_exhaustive()
    }
}

impl KinesisFaults {
    /// Stands before the service at `target` (`host:port`).
    ///
    /// # Errors
    /// [`io::Error`] where no port is to be had.
    pub fn start(target: impl Into<String>) -> io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0))?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            target: target.into(),
            ended: AtomicBool::new(false),
            state: Mutex::default(),
            released: Condvar::new(),
        });
        let serving = shared.clone();
        thread::spawn(move || {
            for stream in listener.incoming() {
                if serving.ended.load(Ordering::Acquire) {
                    return;
                }
                let Ok(stream) = stream else { continue };
                let shared = serving.clone();
                thread::spawn(move || {
                    // A client that goes away ends its connection; there is nobody to tell.
                    let _ = shared.serve(stream);
                });
            }
        });
        Ok(Self { shared, address })
    }

    /// `http://127.0.0.1:port`.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The next `times` calls of `operation` fail with `code` (`ProvisionedThroughputExceededException`), and do nothing.
    pub fn fail(&self, operation: &str, code: &str, times: usize) {
        self.shared.lock().failures.push_back((operation.to_owned(), code.to_owned(), times));
    }

    /// Of the next `times` requests of `PutRecords`, the records are refused with `code` for which `refuses` says so, by their
    /// place and partition key; the others are taken.
    pub fn refuse_records(
        &self,
        code: &str,
        times: usize,
        refuses: impl Fn(usize, &str) -> bool + Send + Sync + 'static,
    ) {
        let partial = Partial { code: code.to_owned(), refuses: Arc::new(refuses) };
        self.shared.lock().partial.push_back((times, partial));
    }

    /// The connections of the next `times` calls of `operation` end without an answer, as when a service dies.
    pub fn hang_up(&self, operation: &str, when: HangUp, times: usize) {
        self.shared.lock().hang_ups.push_back((operation.to_owned(), when, times));
    }

    /// Calls of `operation` are not answered from now on, until [`release`](Self::release).
    pub fn hold(&self, operation: &str) {
        self.shared.lock().held.push(operation.to_owned());
    }

    /// Lets everything go on that is held.
    pub fn release(&self) {
        self.shared.lock().held.clear();
        self.shared.released.notify_all();
    }

    /// Every call that came by since the last time that this was asked.
    #[must_use]
    pub fn calls(&self) -> Vec<Call> {
        std::mem::take(&mut self.shared.lock().calls)
    }
}

impl fmt::Debug for KinesisFaults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KinesisFaults").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Drop for KinesisFaults {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::Release);
        self.release();
        // Wakes the one who waits for connections.
        let _ = TcpStream::connect(self.address);
    }
}

/// A request, or an answer: its first line, its headers as they came, its body.
struct Text {
    first: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Text {
    /// `None` = the connection ended before it began.
    fn read(from: &mut impl BufRead) -> io::Result<Option<Self>> {
        let mut first = String::new();
        if from.read_line(&mut first)? == 0 {
            return Ok(None);
        }
        let mut headers = Vec::new();
        loop {
            let mut line = String::new();
            if from.read_line(&mut line)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let line = line.trim_end();
            if line.is_empty() {
                break;
            }
            if let Some((name, value)) = line.split_once(':') {
                headers.push((name.trim().to_owned(), value.trim().to_owned()));
            }
        }
        let mut text = Self { first: first.trim_end().to_owned(), headers, body: Vec::new() };
        match text.header("content-length").and_then(|length| length.parse().ok()) {
            Some(length) => {
                text.body.resize(length, 0);
                from.read_exact(&mut text.body)?;
            }
            // An answer to HTTP/1.0 without a length ends with its connection; a request without one has no body.
            None if text.first.starts_with("HTTP/") => {
                from.read_to_end(&mut text.body)?;
            }
            None => {}
        }
        Ok(Some(text))
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(known, _)| known.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }

    fn operation(&self) -> String {
        let target = self.header("x-amz-target").unwrap_or_default();
        target.rsplit('.').next().unwrap_or(target).to_owned()
    }

    fn answer(status: u16, body: &Value) -> Self {
        let headers = vec![("content-type".to_owned(), "application/x-amz-json-1.1".to_owned())];
        Self { first: format!("HTTP/1.1 {status} x"), headers, body: body.to_string().into_bytes() }
    }

    /// Everything but what belongs to one connection; the length is that of the body.
    fn write(&self, to: &mut impl Write, first: &str) -> io::Result<()> {
        let mut head = format!("{first}\r\n");
        for (name, value) in &self.headers {
            let own = ["content-length", "connection", "transfer-encoding", "keep-alive", "expect"];
            if !own.contains(&name.to_ascii_lowercase().as_str()) {
                head.push_str(&format!("{name}: {value}\r\n"));
            }
        }
        head.push_str(&format!("content-length: {}\r\n\r\n", self.body.len()));
        to.write_all(head.as_bytes())?;
        to.write_all(&self.body)?;
        to.flush()
    }
}

impl Shared {
    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn serve(&self, stream: TcpStream) -> io::Result<()> {
        let mut writer = stream.try_clone()?;
        let mut reader = BufReader::new(stream);
        while let Some(request) = Text::read(&mut reader)? {
            let answer = self.answer(&request)?;
            let first = answer.first.replace("HTTP/1.0", "HTTP/1.1");
            answer.write(&mut writer, &first)?;
        }
        Ok(())
    }

    fn answer(&self, request: &Text) -> io::Result<Text> {
        let operation = request.operation();
        let body: Value = serde_json::from_slice(&request.body).unwrap_or_default();
        match self.look(&operation, &body) {
            Fate::Passes => self.pass(request, &request.body),
            Fate::Fails(code) => {
                let status = if code.starts_with("Internal") { 500 } else { 400 };
                Ok(Text::answer(status, &json!({ "__type": code, "message": "by the test" })))
            }
            Fate::IsTakenInPart(partial) => self.partly(request, body, &partial),
            Fate::HangsUp(when) => {
                if when == HangUp::After {
                    self.pass(request, &request.body)?;
                }
                Err(io::ErrorKind::ConnectionAborted.into())
            }
        }
    }

    /// Notes the call, and what is to become of it.
    fn look(&self, operation: &str, body: &Value) -> Fate {
        let records = body["Records"].as_array().filter(|_| operation == "PutRecords");
        let records = records.map(Vec::as_slice).unwrap_or_default();
        let key = |record: &Value| record["PartitionKey"].as_str().unwrap_or_default().to_owned();
        let keys: Vec<String> = records.iter().map(key).collect();
        // Base64: three bytes for every four, but for the padding.
        let size = |record: &Value| {
            let data = record["Data"].as_str().unwrap_or_default();
            data.len() / 4 * 3 - data.bytes().rev().take_while(|byte| *byte == b'=').count()
        };
        let bytes = records.iter().map(size).sum::<usize>() + keys.iter().map(String::len).sum::<usize>();
        let mut state = self.lock();
        state.calls.push(Call { operation: operation.to_owned(), keys, bytes });
        while state.held.iter().any(|held| held == operation) {
            state = self.released.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if let Some(code) = next_of(&mut state.failures, operation) {
            return Fate::Fails(code);
        }
        if let Some(when) = next_of(&mut state.hang_ups, operation) {
            return Fate::HangsUp(when);
        }
        if operation == "PutRecords"
            && let Some((times, partial)) = state.partial.front_mut()
        {
            let partial = Partial { code: partial.code.clone(), refuses: partial.refuses.clone() };
            *times -= 1;
            if *times == 0 {
                state.partial.pop_front();
            }
            return Fate::IsTakenInPart(partial);
        }
        Fate::Passes
    }

    /// Passes on what is not refused, and puts the answers together.
    fn partly(&self, request: &Text, mut body: Value, partial: &Partial) -> io::Result<Text> {
        let records = body["Records"].as_array().cloned().unwrap_or_default();
        let refused: Vec<bool> = records
            .iter()
            .enumerate()
            .map(|(at, record)| (partial.refuses)(at, record["PartitionKey"].as_str().unwrap_or_default()))
            .collect();
        let kept: Vec<Value> = records
            .iter()
            .zip(&refused)
            .filter(|(_, refused)| !**refused)
            .map(|(record, _)| record.clone())
            .collect();
        let mut taken = VecDeque::new();
        if !kept.is_empty() {
            body["Records"] = Value::Array(kept);
            let answer = self.pass(request, body.to_string().as_bytes())?;
            if !answer.first.contains(" 200") {
                return Ok(answer);
            }
            let told: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
            taken.extend(told["Records"].as_array().cloned().unwrap_or_default());
        }
        let entries: Vec<Value> = refused
            .iter()
            .map(|refused| match refused {
                true => json!({ "ErrorCode": partial.code, "ErrorMessage": "by the test" }),
                false => taken.pop_front().unwrap_or_default(),
            })
            .collect();
        let failed = refused.iter().filter(|refused| **refused).count();
        Ok(Text::answer(200, &json!({ "FailedRecordCount": failed, "Records": entries })))
    }

    fn pass(&self, request: &Text, body: &[u8]) -> io::Result<Text> {
        let mut stream = TcpStream::connect(&self.target)?;
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        let passed = Text { first: String::new(), headers: request.headers.clone(), body: body.to_vec() };
        // HTTP/1.0, so that the answer is never chunked and ends with the connection.
        passed.write(&mut stream, &request.first.replace("HTTP/1.1", "HTTP/1.0"))?;
        Text::read(&mut BufReader::new(stream))?.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }
}

/// What the first of `planned` says for a call of `operation`, which has one time less for it then.
fn next_of<T: Clone>(planned: &mut VecDeque<(String, T, usize)>, operation: &str) -> Option<T> {
    let at = planned.iter().position(|(known, _, _)| known == operation)?;
    let (_, what, times) = &mut planned[at];
    let what = what.clone();
    *times -= 1;
    if *times == 0 {
        planned.remove(at);
    }
    Some(what)
}
