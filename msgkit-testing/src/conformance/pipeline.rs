//! What runs handlers over a transport, as the suite sees it: msgkit's own service, or one broken on purpose.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use msgkit::envelope::Clock;
use msgkit::handler::{Batch, BatchOutcome, HandleBatch, HandlerSpec, PolicyOverrides, batch, closure};
use msgkit::service::Running;
use msgkit::telemetry::{Event, Observer};
use msgkit::transport::{Start, Transport};
use msgkit::{Context, Envelope, Error, Group, HandlerError, Message, Pattern, Policy, Service};

use super::probe::{Other, Probe, Said};

/// Runs handlers over a transport.
#[async_trait]
pub trait Pipeline: Send + Sync {
    /// What it is called.
    fn name(&self) -> &str;

    /// Starts `job`; returns when every handler is subscribed.
    ///
    /// # Errors
    /// Where the job cannot be run on its transport.
    async fn start(&self, job: Job) -> Result<Box<dyn RunningPipeline>, Error>;
}

/// A pipeline that runs.
#[async_trait]
pub trait RunningPipeline: Send + Sync {
    /// Publishes `probe` as the first of a new flow.
    ///
    /// # Errors
    /// Where the broker did not take it.
    async fn publish(&self, probe: &Probe) -> Result<Envelope, Error>;

    /// Publishes an envelope to its own topic.
    ///
    /// # Errors
    /// Where the broker did not take it.
    async fn publish_envelope(&self, envelope: Envelope) -> Result<(), Error>;

    /// Lets a handler fetch nothing more.
    ///
    /// # Errors
    /// Where there is no such handler.
    async fn pause(&self, handler: &str) -> Result<(), Error>;

    /// Lets a handler fetch again.
    ///
    /// # Errors
    /// Where there is no such handler.
    async fn resume(&self, handler: &str) -> Result<(), Error>;

    /// Takes a handler away; its group stays.
    ///
    /// # Errors
    /// Where there is no such handler.
    async fn detach(&self, handler: &str) -> Result<(), Error>;

    /// Adds a handler.
    ///
    /// # Errors
    /// Where it cannot be run on the transport.
    async fn attach(&self, handler: JobHandler) -> Result<(), Error>;

    /// Shuts down without losing anything; leaves the transport open.
    ///
    /// # Errors
    /// Where something did not close cleanly.
    async fn drain(self: Box<Self>) -> Result<(), Error>;

    /// Breaks off as a killed process does.
    async fn crash(self: Box<Self>);
}

/// Handlers, and the transport that they run on.
#[derive(Clone)]
#[non_exhaustive]
pub struct Job {
    /// The service's name.
    pub service: &'static str,
    /// The transport; it outlives the pipeline.
    pub transport: Arc<dyn Transport>,
    /// Where dead letters go; `None` = they stay on the transport.
    pub letters: Option<Arc<dyn Transport>>,
    /// The clock.
    pub clock: Clock,
    /// The handlers.
    pub handlers: Vec<JobHandler>,
    /// How long a drain waits.
    pub drain_deadline: Duration,
    /// Told what happens, where it is asked for.
    pub observer: Option<Arc<dyn Observer>>,
}

impl Job {
    /// A job without handlers.
    #[must_use]
    pub fn new(transport: Arc<dyn Transport>, clock: Clock) -> Self {
        Self {
            service: "conformance",
            transport,
            letters: None,
            clock,
            handlers: Vec::new(),
            drain_deadline: Duration::from_secs(30),
            observer: None,
        }
    }

    /// The same with one more handler.
    #[must_use]
    pub fn with(mut self, handler: JobHandler) -> Self {
        self.handlers.push(handler);
        self
    }
}

/// What one call of a handler is given.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Call {
    /// The number in the message.
    pub n: u32,
    /// The key in the message.
    pub key: String,
    /// Its envelope.
    pub envelope: Envelope,
    /// Which attempt it is, from 1.
    pub attempt: u32,
}

impl Call {
    /// A call with `n` of `key`.
    #[must_use]
    pub fn new(n: u32, key: String, envelope: Envelope, attempt: u32) -> Self {
        Self { n, key, envelope, attempt }
    }
}

/// What a handler answers to one call.
#[derive(Debug)]
#[non_exhaustive]
pub struct Answer {
    /// What it has published through its context, in order.
    pub said: Vec<Said>,
    /// Whether it succeeded.
    pub result: Result<(), HandlerError>,
}

impl Answer {
    /// An answer.
    #[must_use]
    pub fn new(said: Vec<Said>, result: Result<(), HandlerError>) -> Self {
        Self { said, result }
    }
}

impl From<Result<Vec<Said>, HandlerError>> for Answer {
    fn from(result: Result<Vec<Said>, HandlerError>) -> Self {
        match result {
            Ok(said) => Self::new(said, Ok(())),
            Err(error) => Self::new(Vec::new(), Err(error)),
        }
    }
}

impl From<Result<(), HandlerError>> for Answer {
    fn from(result: Result<(), HandlerError>) -> Self {
        Self::new(Vec::new(), result)
    }
}

/// The function of a handler: as many answers as calls.
pub type Function = Arc<dyn Fn(Vec<Call>) -> Pin<Box<dyn Future<Output = Vec<Answer>> + Send>> + Send + Sync>;

/// Which types a handler takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Takes {
    /// [`Probe`] alone.
    Probe,
    /// [`Probe`] and [`Other`], in one ordered lane.
    Both,
    /// [`Probe`], up to this many at once, none waiting longer than this.
    Batch(usize, Duration),
}

/// One handler of a job.
#[derive(Clone)]
#[non_exhaustive]
pub struct JobHandler {
    /// Its name.
    pub name: &'static str,
    /// Its group; `None` = every instance for itself.
    pub group: Option<Group>,
    /// Where a new group begins.
    pub start: Start,
    /// Its policy.
    pub policy: Policy,
    /// The types that it takes.
    pub takes: Takes,
    /// What it does.
    pub run: Function,
}

impl fmt::Debug for JobHandler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JobHandler").field("name", &self.name).finish_non_exhaustive()
    }
}

impl JobHandler {
    /// A handler of the group of its own name, which takes one probe at a time.
    pub fn new<F, Fut>(name: &'static str, policy: Policy, run: F) -> Self
    where
        F: Fn(Call) -> Fut + Send + Sync + 'static,
        Fut: Future<Output: Into<Answer>> + Send + 'static,
    {
        let run = Arc::new(run);
        Self {
            name,
            group: Some(super::bench::group_of(name)),
            start: Start::Latest,
            policy,
            takes: Takes::Probe,
            run: Arc::new(move |calls| {
                let run = run.clone();
                Box::pin(async move {
                    let mut answers = Vec::with_capacity(calls.len());
                    for call in calls {
                        answers.push(run(call).await.into());
                    }
                    answers
                })
            }),
        }
    }

    /// The same, taking other types.
    #[must_use]
    pub fn takes(mut self, takes: Takes) -> Self {
        self.takes = takes;
        self
    }

    /// The same without a group.
    #[must_use]
    pub fn ephemeral(mut self) -> Self {
        self.group = None;
        self
    }

    /// The same, beginning elsewhere where the group is new.
    #[must_use]
    pub fn start(mut self, start: Start) -> Self {
        self.start = start;
        self
    }
}

/// msgkit's own service.
#[derive(Debug, Clone, Copy, Default)]
pub struct MsgkitPipeline {
    /// Whether an observer listens: every message then takes the pipeline's long way, otherwise the short one where it can.
    pub observed: bool,
}

#[async_trait]
impl Pipeline for MsgkitPipeline {
    fn name(&self) -> &str {
        "msgkit"
    }

    async fn start(&self, job: Job) -> Result<Box<dyn RunningPipeline>, Error> {
        let mut service = Service::new(job.service)
            .clock(job.clock)
            .drain_deadline(job.drain_deadline)
            .share("transport", job.transport.clone());
        if let Some(letters) = job.letters {
            service = service
                .share("letters", letters)
                .route(everything()?, "transport")
                .dead_letters("transport", "letters");
        }
        match job.observer {
            Some(observer) => service = service.observe(Told(observer)),
            None if self.observed => service = service.observe(|_: &Event<'_>| {}),
            None => {}
        }
        for handler in job.handlers {
            service = service.spec(spec(handler)?);
        }
        Ok(Box::new(service.start().await?))
    }
}

fn everything() -> Result<Pattern, Error> {
    Pattern::new(">")
}

struct Told(Arc<dyn Observer>);

impl Observer for Told {
    fn on(&self, event: &Event<'_>) {
        self.0.on(event);
    }
}

/// A handler of the suite as msgkit takes it.
fn spec(handler: JobHandler) -> Result<HandlerSpec, Error> {
    let JobHandler { name, group, start, policy, takes, run } = handler;
    let spec = match &group {
        Some(group) => HandlerSpec::new(name, group.as_str().to_owned())?,
        None => HandlerSpec::ephemeral(name)?,
    };
    let spec = spec.start(start).overrides(|set: &mut PolicyOverrides| {
        set.immediate = Some(policy.immediate);
        set.delayed = Some(policy.delayed.clone());
        set.timeout = Some(policy.timeout);
        set.concurrency = Some(policy.concurrency);
        set.order = Some(policy.order);
        set.in_flight = Some(policy.in_flight);
        set.max_starts = Some(policy.max_starts);
        set.unhandled = Some(policy.unhandled);
        set.breaker = Some(policy.breaker.clone());
        set.copy_deadline = Some(policy.copy_deadline);
    });
    Ok(match takes {
        Takes::Batch(size, wait) => spec.with(batch(&Arc::new(InBatches(run)), size, wait)),
        Takes::Probe => spec.with(closure(one(run))),
        Takes::Both => {
            let other = run.clone();
            spec.with(closure(one(run))).with(closure(move |message: Other, cx: Context| {
                let call = Call::new(message.n, message.key, cx.envelope().clone(), cx.attempt());
                alone(other.clone(), call, cx)
            }))
        }
    })
}

fn one(
    run: Function,
) -> impl Fn(Probe, Context) -> Pin<Box<dyn Future<Output = Result<(), HandlerError>> + Send>> + Send + Sync {
    move |probe: Probe, cx: Context| {
        let call = Call::new(probe.n, probe.key, cx.envelope().clone(), cx.attempt());
        Box::pin(alone(run.clone(), call, cx))
    }
}

async fn alone(run: Function, call: Call, cx: Context) -> Result<(), HandlerError> {
    let answer = run(vec![call]).await.pop();
    answered(answer.unwrap_or_else(|| Answer::from(Err::<(), _>(HandlerError::permanent("no answer")))), &cx)
}

fn answered(answer: Answer, cx: &Context) -> Result<(), HandlerError> {
    answer.said.iter().try_for_each(|said| cx.publish(said)).map_err(HandlerError::permanent)?;
    answer.result
}

struct InBatches(Function);

impl HandleBatch<Probe> for InBatches {
    async fn handle_batch(&self, batch: Vec<Batch<Probe>>) -> Result<BatchOutcome, HandlerError> {
        let calls = batch
            .iter()
            .map(|one| {
                Call::new(one.message.n, one.message.key.clone(), one.cx.envelope().clone(), one.cx.attempt())
            })
            .collect();
        let answers = (self.0)(calls).await;
        let mut outcomes = Vec::with_capacity(answers.len());
        for (answer, one) in answers.into_iter().zip(&batch) {
            outcomes.push(answered(answer, &one.cx));
        }
        Ok(BatchOutcome::each(outcomes))
    }
}

#[async_trait]
impl RunningPipeline for Running {
    async fn publish(&self, probe: &Probe) -> Result<Envelope, Error> {
        self.publisher().publish(probe).await
    }

    async fn publish_envelope(&self, envelope: Envelope) -> Result<(), Error> {
        self.publisher().publish_envelopes(vec![envelope]).await
    }

    async fn pause(&self, handler: &str) -> Result<(), Error> {
        Running::pause(self, handler).await
    }

    async fn resume(&self, handler: &str) -> Result<(), Error> {
        Running::resume(self, handler).await
    }

    async fn detach(&self, handler: &str) -> Result<(), Error> {
        Running::detach(self, handler).await
    }

    async fn attach(&self, handler: JobHandler) -> Result<(), Error> {
        Running::attach(self, spec(handler)?).await
    }

    async fn drain(self: Box<Self>) -> Result<(), Error> {
        Running::drain(*self).await
    }

    async fn crash(self: Box<Self>) {
        Running::crash(*self).await;
    }
}

/// The envelope of a message at the source of a flow, as a case publishes it by hand.
pub(crate) fn envelope_of<M: Message>(message: &M, clock: Clock) -> Envelope {
    match msgkit::envelope_of(message, &msgkit::Text::from_static("conformance"), clock.now()) {
        Ok(envelope) => envelope,
        Err(error) => panic!("the case's message cannot be written: {error}"),
    }
}
