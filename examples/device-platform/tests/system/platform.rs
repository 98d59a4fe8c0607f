//! The real program as a child process, and looks at what it stores.
#![allow(dead_code)] // Each test binary uses a part of it.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;

/// A running platform; killed when dropped.
pub(crate) struct Platform {
    child: Child,
    address: String,
    /// What it printed until it ran.
    pub(crate) said: Vec<String>,
}

/// With which options and variables a process is started.
#[derive(Clone, Debug, Default)]
pub(crate) struct Launch {
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
}

impl Launch {
    pub(crate) fn with(mut self, arguments: &[&str]) -> Self {
        self.arguments.extend(arguments.iter().map(|argument| (*argument).to_owned()));
        self
    }

    /// A value of the configuration, as a variable says it.
    pub(crate) fn configured(mut self, key: &str, value: &str) -> Self {
        self.environment.push((format!("MSGKIT__{key}"), value.to_owned()));
        self
    }

    pub(crate) fn start(&self) -> Platform {
        let mut child = Command::new(env!("CARGO_BIN_EXE_device-platform"))
            .args(["--listen", "127.0.0.1:0"])
            .args(&self.arguments)
            .envs(self.environment.iter().cloned())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let (mut address, mut said) = (String::new(), Vec::new());
        for line in &mut lines {
            let line = line.unwrap();
            if let Some(found) = line.strip_prefix("dashboard and API: http://") {
                address = found.to_owned();
            }
            said.push(line);
            // The last line that it prints when it runs.
            if said.last().is_some_and(|line| line.starts_with("Ctrl-C")) {
                break;
            }
        }
        // Nobody reads on, and nobody has to: what it prints later fits into the pipe.
        std::mem::forget(lines);
        let platform = Platform { child, address, said };
        assert!(platform.said.iter().any(|line| line.starts_with("Ctrl-C")), "it does not run: {self:?}");
        platform
    }
}

/// What the program answers to `check` with this configuration: whether it is content, and what it prints on which stream.
pub(crate) fn check(config: &Path) -> (bool, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_device-platform"))
        .args(["check", "--config", config.to_str().unwrap()])
        .output()
        .unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.success(), text(output.stdout), text(output.stderr))
}

impl Platform {
    pub(crate) fn start(data: &Path, more: &[&str]) -> Self {
        let speed = std::env::var("SPEED").unwrap_or_else(|_| "1000".to_owned());
        Launch::default().with(&["--speed", &speed, "--data", data.to_str().unwrap()]).with(more).start()
    }

    /// Kills it (SIGKILL) from another thread, while this one goes on using it.
    pub(crate) fn killer(&self) -> std::thread::JoinHandle<()> {
        let process = self.child.id().to_string();
        std::thread::spawn(move || {
            assert!(Command::new("kill").args(["-9", &process]).status().unwrap().success());
        })
    }

    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Where it serves HTTP.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// One request over a connection of its own; `None` where the platform was gone.
    pub(crate) fn request(&self, method: &str, path: &str, body: &str) -> Option<(u16, Value)> {
        request(&self.address, method, path, body)
    }
}

/// One request to `address` over a connection of its own; `None` where nobody answered.
pub(crate) fn request(address: &str, method: &str, path: &str, body: &str) -> Option<(u16, Value)> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(20))).ok()?;
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
        address,
        body.len()
    )
    .ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let status = answer.split(' ').nth(1)?.parse().ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let body = if head.to_ascii_lowercase().contains("transfer-encoding: chunked") {
        unchunk(body)
    } else {
        body.to_owned()
    };
    Some((status, serde_json::from_str(&body).unwrap_or(Value::Null)))
}

/// What is answered at last with success: a machine that stands still may exceed the seconds that the gateway gives a question.
pub(crate) fn answered(address: &str, path: &str) -> Value {
    let mut answer = Value::Null;
    crate::story::until(path, || match request(address, "GET", path, "") {
        Some((200, body)) => {
            answer = body;
            Ok(())
        }
        other => Err(format!("{other:?}")),
    });
    answer
}

impl Drop for Platform {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn unchunk(mut body: &str) -> String {
    let mut whole = String::new();
    while let Some((size, rest)) = body.split_once("\r\n") {
        let Ok(size) = usize::from_str_radix(size.trim(), 16) else { break };
        if size == 0 {
            break;
        }
        whole.push_str(&rest[..size]);
        body = &rest[size + 2..];
    }
    whole
}

/// Waits for a look at the store, which the platform is using too.
pub(crate) fn now<T>(look: impl Future<Output = T>) -> T {
    static RUNTIME: std::sync::LazyLock<tokio::runtime::Runtime> =
        std::sync::LazyLock::new(|| tokio::runtime::Runtime::new().unwrap());
    RUNTIME.block_on(look)
}
