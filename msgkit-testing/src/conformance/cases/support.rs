//! What several rooms of cases share.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use msgkit::envelope::{ContentType, MessageId, NativeValue};
use msgkit::policy::Delayed;
use msgkit::transport::{
    Delivery, Destination, Outgoing, PublishError, Transport, TransportError, TransportErrorKind,
};
use msgkit::{Envelope, Policy, Text};
use tokio::sync::Semaphore;

use crate::conformance::bench::{Bench, topic_of};
use crate::conformance::pipeline::{Call, Job, JobHandler, RunningPipeline};
use crate::conformance::probe::Said;
use crate::conformance::{Fault, Proof, Time};
use crate::decorate::{Decorate, Decorated};

/// An envelope with every attribute, odd headers and bytes that are no text.
pub(super) fn full_envelope(bench: &Bench<'_>, topic: &str) -> Envelope {
    let now = bench.clock().now();
    let payload = bytes::Bytes::from_static(b"\x00\x01\xfe\xff\r\n\"\\");
    let content_type = ContentType::Other(Text::from_static("application/octet-stream"));
    let mut envelope =
        Envelope::new("conformance", "conformance.full.v2", topic_of(topic), content_type, payload, now);
    let cause = bench.envelope("a.cause", "the cause");
    envelope.set_cause(&cause);
    if let Ok(id) = MessageId::parse("foreign id: ä/€ 1") {
        envelope.set_id(id);
    }
    envelope.set_key(Some("the key, ä".into()));
    envelope.set_subject(Some("the subject".into()));
    envelope.set_data_schema(Some("https://example.org/schema/2".into()));
    envelope.set_sequence(Some("000042".into()));
    envelope.set_reply_to(Some(topic_of("a.reply")));
    envelope.set_expires(Some(now.after(Duration::from_secs(86_400 * 365))));
    envelope.set_principal(Some("user 7".into()));
    envelope.set_data_ref(Some("https://example.org/blob/1".into()));
    for (name, value) in [("tenant", "t1"), ("odd", "a\"b\\c, ä€ =;"), ("x1", " spaces ")] {
        let inserted = name.try_into().map(|name| envelope.headers_mut().insert(name, value));
        assert!(matches!(inserted, Ok(Ok(_))), "header {name}");
    }
    envelope
}

/// Asserts that what came is what was sent, attribute by attribute.
pub(super) fn assert_same(sent: &Envelope, came: &Delivery) {
    let Some(came) = came.message().envelope() else { panic!("it came malformed: {came:?}") };
    let list = |envelope: &Envelope| {
        msgkit::envelope::attributes::list(envelope)
            .into_iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect::<Vec<_>>()
    };
    assert_eq!(list(sent), list(came));
    assert_eq!((sent.payload(), sent.is_null()), (came.payload(), came.is_null()));
    assert_eq!(sent.topic(), came.topic());
    assert_eq!(sent.native(), came.native());
}

/// Headers that only a native client makes.
pub(super) fn odd_headers() -> msgkit::envelope::NativeHeaders {
    let mut headers = msgkit::envelope::NativeHeaders::new();
    headers.push("X-Odd", "first");
    headers.push("X-Odd", "second");
    headers.push("nothing", NativeValue::Null);
    headers.push("Number", 7_i64);
    headers.push("bytes", bytes::Bytes::from_static(b"\xff\x00"));
    headers
}

/// A policy with delays that the subject's time can tell apart.
pub(super) fn policy(bench: &Bench<'_>, immediate: u32, rounds: u32) -> Policy {
    let mut policy = Policy::default();
    policy.immediate = immediate;
    policy.delayed = (rounds > 0).then(|| {
        let mut delayed = Delayed::new(bench.time().tick(), rounds);
        delayed.jitter = 0.0;
        delayed.factor = 1.5;
        delayed
    });
    policy.breaker = None;
    // One that is given up and made again is a duplicate, which the cases that count copies would see.
    policy.copy_deadline =
        if bench.time() == Time::Virtual { Duration::from_secs(5) } else { Duration::from_secs(60) };
    policy
}

/// What a handler was called with, in order.
#[derive(Debug, Clone, Default)]
pub(super) struct Calls(Arc<Mutex<Vec<Call>>>);

impl Calls {
    pub(super) fn push(&self, call: Call) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(call);
    }

    pub(super) fn all(&self) -> Vec<Call> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn numbers(&self) -> Vec<u32> {
        self.all().iter().map(|call| call.n).collect()
    }

    pub(super) fn len(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).len()
    }
}

/// What handlers wait for: closed at first, then open for good.
#[derive(Debug, Clone)]
pub(super) struct Gate(Arc<Semaphore>);

impl Default for Gate {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(0)))
    }
}

impl Gate {
    pub(super) fn open(&self) {
        // Whoever waits for a permit of a closed one goes on, now and later.
        self.0.close();
    }

    pub(super) async fn passed(&self) {
        let _ = self.0.acquire().await;
    }
}

/// A handler that notes every call and succeeds.
pub(super) fn noting(name: &'static str, policy: Policy, calls: &Calls) -> JobHandler {
    let calls = calls.clone();
    JobHandler::new(name, policy, move |call| {
        calls.push(call);
        async { Ok(Vec::<Said>::new()) }
    })
}

/// A handler that notes every call and fails the first `times` of each number.
pub(super) fn failing(name: &'static str, policy: Policy, calls: &Calls, times: u32) -> JobHandler {
    let calls = calls.clone();
    JobHandler::new(name, policy, move |call| {
        let before = calls.all().iter().filter(|seen| seen.n == call.n).count();
        calls.push(call);
        async move {
            if u32::try_from(before).unwrap_or(u32::MAX) < times {
                return Err(format!("failure {}", before + 1).into());
            }
            Ok(Vec::<Said>::new())
        }
    })
}

/// A job with `handlers` on a new connection to the case's broker.
pub(super) async fn job(bench: &Bench<'_>, handlers: impl IntoIterator<Item = JobHandler>) -> Job {
    let mut job = Job::new(bench.connect().await, bench.clock());
    if !job.transport.capabilities().keeps_unread {
        job.letters = Some(bench.beside());
    }
    handlers.into_iter().fold(job, Job::with)
}

/// Starts `handlers` on a new connection.
pub(super) async fn run(
    bench: &Bench<'_>,
    handlers: impl IntoIterator<Item = JobHandler>,
) -> Box<dyn RunningPipeline> {
    start(bench, job(bench, handlers).await).await
}

/// Ends `running` as a killed process does: its connections break, so that nothing is given back in good order.
/// `None` where that cannot be done here.
pub(super) async fn crash(bench: &Bench<'_>, running: Box<dyn RunningPipeline>) -> Result<(), Proof> {
    let dying = bench.soon("the crash", running.crash());
    match bench.broker().await.kill(Box::pin(dying)).await {
        Fault::Impossible(why) => Err(Proof::not_proven(why)),
        Fault::Done => Ok(()),
    }
}

/// Starts `job` on the bench's pipeline.
pub(super) async fn start(bench: &Bench<'_>, job: Job) -> Box<dyn RunningPipeline> {
    match bench.soon("the pipeline starts", bench.pipeline().start(job)).await {
        Ok(running) => running,
        Err(error) => panic!("the pipeline did not start: {}", msgkit::Chain(&error)),
    }
}

/// Drains; anything but success fails the case.
pub(super) async fn drain(bench: &Bench<'_>, running: Box<dyn RunningPipeline>) {
    if let Err(error) = bench.soon("the drain ends", running.drain()).await {
        panic!("the drain failed: {}", msgkit::Chain(&error));
    }
}

/// Publishes probes `numbers` of one key through the pipeline.
pub(super) async fn publish(
    bench: &Bench<'_>,
    running: &dyn RunningPipeline,
    numbers: impl IntoIterator<Item = u32>,
) {
    for n in numbers {
        let probe = crate::conformance::Probe::new(n, "k");
        if let Err(error) = bench.soon("publish", running.publish(&probe)).await {
            panic!("publishing failed: {}", msgkit::Chain(&error));
        }
    }
}

/// Waits until nothing of `group` waits, is kept back or is in hand; nothing where the transport cannot tell.
pub(super) async fn until_idle(bench: &Bench<'_>, transport: &dyn Transport, group: &str) {
    let Some(operate) = transport.operate() else { return };
    let step = bench.time().tick() / 20;
    bench
        .soon(&format!("group `{group}` comes to rest"), async {
            loop {
                let groups = match operate.groups().await {
                    Ok(groups) => groups,
                    Err(error) => panic!("the groups cannot be asked: {}", msgkit::Chain(&error)),
                };
                let busy = groups.iter().any(|status| {
                    status.group.as_str() == group
                        && (status.waiting > 0 || status.delayed > 0 || status.in_hand.unwrap_or(0) > 0)
                });
                if !busy {
                    return;
                }
                tokio::time::sleep(step).await;
            }
        })
        .await;
}

/// Which publishes fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Which {
    Retries,
    DeadLetters,
    Topics,
}

/// Refuses the first so many publishes of one kind.
#[derive(Debug)]
pub(super) struct Refuses {
    which: Which,
    left: AtomicU32,
    refused: AtomicU32,
}

impl Refuses {
    /// Around `transport`; the decorator tells how often it has refused.
    pub(super) fn around(
        transport: Arc<dyn Transport>,
        which: Which,
        times: u32,
    ) -> (Arc<dyn Transport>, Arc<Self>) {
        let refuses = Arc::new(Self { which, left: AtomicU32::new(times), refused: AtomicU32::new(0) });
        (Arc::new(Decorated::sharing(transport, refuses.clone())), refuses)
    }

    /// From now on nothing is refused.
    pub(super) fn allow(&self) {
        self.left.store(0, Ordering::SeqCst);
    }

    pub(super) fn refused(&self) -> u32 {
        self.refused.load(Ordering::SeqCst)
    }
}

#[async_trait]
impl Decorate for Refuses {
    async fn publish(&self, inner: &dyn Transport, batch: Vec<Outgoing>) -> Result<(), PublishError> {
        let concerned = batch.iter().any(|message| {
            matches!(
                (&message.to, self.which),
                (Destination::Retry { .. }, Which::Retries)
                    | (Destination::DeadLetter(_), Which::DeadLetters)
                    | (Destination::Topic { .. }, Which::Topics)
            )
        });
        if concerned && self.left.load(Ordering::SeqCst) > 0 {
            self.left.fetch_sub(1, Ordering::SeqCst);
            self.refused.fetch_add(1, Ordering::SeqCst);
            return Err(PublishError::all(batch, || {
                TransportError::new(TransportErrorKind::Unavailable, "refused by the case")
            }));
        }
        inner.publish(batch).await
    }
}
