//! Broken pipelines: msgkit's own with one of its rules taken away.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use msgkit::envelope::MessageId;
use msgkit::handler::Disposition;
use msgkit::policy::{OnFailure, Order, Unhandled};
use msgkit::transport::{Destination, Outgoing, Transport};
use msgkit::{Envelope, Error, HandlerError, Timestamp};

use super::Mutant;
use super::sending::Edits;
use super::steps::{BuriesTwice, KeysByType, Numbers, Reads, SettlesAll, Spins, Trusts, is_said};
use crate::conformance::{
    Answer, Call, Function, Job, JobHandler, MsgkitPipeline, Pipeline, Probe, RunningPipeline, Takes,
};
use crate::decorate::Decorated;

/// A mutant that is a pipeline: msgkit's own on a job that was changed, with a handle that was changed.
struct BrokenPipeline {
    name: &'static str,
    mistake: &'static str,
    job: fn(Job) -> Job,
    running: fn(Box<dyn RunningPipeline>) -> Box<dyn RunningPipeline>,
}

impl Mutant for BrokenPipeline {
    fn name(&self) -> &str {
        self.name
    }

    fn mistake(&self) -> &str {
        self.mistake
    }

    fn pipeline(&self) -> Arc<dyn Pipeline> {
        Arc::new(Changed { name: self.name, job: self.job, running: self.running })
    }
}

struct Changed {
    name: &'static str,
    job: fn(Job) -> Job,
    running: fn(Box<dyn RunningPipeline>) -> Box<dyn RunningPipeline>,
}

#[async_trait]
impl Pipeline for Changed {
    fn name(&self) -> &str {
        self.name
    }

    async fn start(&self, job: Job) -> Result<Box<dyn RunningPipeline>, Error> {
        let running = MsgkitPipeline::default().start((self.job)(job)).await?;
        Ok((self.running)(running))
    }
}

/// One line of the table: a pipeline with another job.
macro_rules! mutant {
    ($name:ident, $mistake:literal, $job:expr) => {
        Box::new(BrokenPipeline {
            name: stringify!($name),
            mistake: $mistake,
            job: $job,
            running: |running| running,
        })
    };
}

/// One line of the table: a pipeline with another handle.
macro_rules! handle {
    ($name:ident, $mistake:literal, $change:expr) => {
        Box::new(BrokenPipeline {
            name: stringify!($name),
            mistake: $mistake,
            job: |job| job,
            running: |inner| Box::new(Handle { inner, change: $change }),
        })
    };
}

pub(super) fn all() -> Vec<Box<dyn Mutant>> {
    vec![
        // Failures.
        mutant!(settles_failures, "settles a message whose handler has failed", |job| answers(
            job,
            |_, answer| { Answer::new(answer.said, Ok(())) }
        )),
        mutant!(swallows_panics, "takes a panic for a success", |job| functions(job, |run| {
            Arc::new(move |calls: Vec<Call>| {
                let (run, count) = (run.clone(), calls.len());
                Box::pin(async move {
                    let handling = std::panic::AssertUnwindSafe(run(calls));
                    match futures_util::FutureExt::catch_unwind(handling).await {
                        Ok(answers) => answers,
                        Err(_) => (0..count).map(|_| Answer::new(Vec::new(), Ok(()))).collect(),
                    }
                })
            })
        })),
        mutant!(retries_without_end, "has no cap of attempts", |job| policies(job, |policy| {
            if let Some(delayed) = &mut policy.delayed {
                delayed.rounds = 900;
            }
        })),
        mutant!(retries_once_too_often, "counts retries instead of attempts", |job| policies(
            job,
            |policy| policy.immediate += 1
        )),
        mutant!(never_retries, "dead-letters at the first failure", |job| policies(job, |policy| {
            (policy.immediate, policy.delayed) = (0, None);
        })),
        mutant!(retries_at_once_only, "makes immediate retries of the delayed ones", |job| policies(
            job,
            |policy| {
                if let Some(delayed) = policy.delayed.take() {
                    policy.immediate += delayed.rounds * (policy.immediate + 1);
                }
            }
        )),
        mutant!(has_one_delay, "waits the first delay before every retry", |job| policies(job, |policy| {
            if let Some(delayed) = &mut policy.delayed {
                delayed.factor = 1.0;
            }
        })),
        mutant!(has_no_timeout, "lets a handler run as long as it likes", |job| policies(job, |policy| {
            policy.timeout = Duration::from_secs(10_000_000);
        })),
        mutant!(has_no_breaker, "burns attempts while everything fails", |job| policies(job, |policy| {
            policy.breaker = None;
        })),
        mutant!(takes_permanent_for_temporary, "retries what can never succeed", |job| answers(
            job,
            |_, answer| {
                dispositions(answer, |disposition, text| match disposition {
                    Disposition::Permanent => HandlerError::retry(text),
                    other => rebuilt(&other, text),
                })
            }
        )),
        mutant!(forgets_retry_after, "retries when the policy says, whatever the handler asked for", |job| {
            answers(job, |_, answer| {
                dispositions(answer, |disposition, text| match disposition {
                    Disposition::RetryAfter(_) => HandlerError::retry(text),
                    other => rebuilt(&other, text),
                })
            })
        }),
        mutant!(buries_what_is_discarded, "dead-letters what is to be discarded", |job| answers(
            job,
            |_, answer| {
                dispositions(answer, |disposition, text| match disposition {
                    Disposition::Discard(_) => HandlerError::permanent(text),
                    other => rebuilt(&other, text),
                })
            }
        )),
        mutant!(skips_unknown_types, "skips what it was told to keep", |job| policies(job, |policy| {
            policy.unhandled = Unhandled::Skip;
        })),
        mutant!(
            buries_unknown_types,
            "dead-letters messages of types that only others take",
            |job| policies(job, |policy| policy.unhandled = Unhandled::DeadLetter)
        ),
        mutant!(handles_what_has_expired, "ignores the expiry", |job| reads(job, |envelope| envelope
            .set_expires(None))),
        mutant!(counts_attempts_in_memory, "does not carry attempts on copies", |job| publishes(
            job,
            |message| {
                if let Destination::Retry { .. } = message.to {
                    message.envelope.set_attempt(0);
                }
            }
        )),
        mutant!(copies_the_payload_alone, "does not carry headers on copies", |job| publishes(
            job,
            |message| {
                if !matches!(message.to, Destination::Topic { .. }) {
                    *message.envelope.headers_mut() = msgkit::envelope::Headers::new();
                }
            }
        )),
        mutant!(makes_new_messages_of_copies, "gives copies an id of their own", |job| publishes(
            job,
            |message| {
                if !matches!(message.to, Destination::Topic { .. }) {
                    message.envelope.set_id(MessageId::new(Timestamp::now()));
                }
            }
        )),
        mutant!(sends_retries_to_everybody, "publishes a retry to the topic, and so to all groups", |job| {
            publishes(job, |message| {
                if let Destination::Retry { .. } = message.to {
                    message.to = Destination::topic(message.envelope.topic().clone());
                }
            })
        }),
        mutant!(buries_text, "keeps of a payload what can be read as text", |job| publishes(
            job,
            |message| {
                if let Destination::DeadLetter(_) = message.to {
                    let text = String::from_utf8_lossy(message.envelope.payload()).into_owned();
                    message.envelope.set_payload(Some(text.into()));
                }
            }
        )),
        mutant!(buries_without_a_reason, "does not say why a message was given up", |job| publishes(
            job,
            |message| {
                if let Some(mut facts) = message.envelope.dead_letter().cloned() {
                    facts.error = "failed".into();
                    message.envelope.set_dead_letter(Some(facts));
                }
            }
        )),
        mutant!(buries_twice, "sends each dead letter twice", |job| with(job, |inner| Arc::new(
            Decorated::new(inner, BuriesTwice)
        ))),
        mutant!(settles_before_the_copy, "settles a message though its copy was not taken", |job| {
            with(job, |inner| {
                Arc::new(Decorated::new(inner, Trusts(|to| matches!(to, Destination::Retry { .. }))))
            })
        }),
        mutant!(
            settles_before_the_dead_letter,
            "settles a message though its dead letter was not taken",
            |job| {
                with(job, |inner| {
                    Arc::new(Decorated::new(inner, Trusts(|to| matches!(to, Destination::DeadLetter(_)))))
                })
            }
        ),
        mutant!(
            tries_copies_in_a_loop,
            "tries a copy that is refused again and again, without a pause",
            |job| { with(job, |inner| Arc::new(Decorated::new(inner, Spins))) }
        ),
        // Flow.
        mutant!(
            settles_before_it_publishes,
            "settles a message though what it has published was not taken",
            |job| {
                with(job, |inner| {
                    Arc::new(Decorated::new(inner, Trusts(|to| matches!(to, Destination::Topic { .. }))))
                })
            }
        ),
        mutant!(publishes_what_failed, "publishes what a failing attempt wanted to", |job| {
            let transport = job.transport.clone();
            functions(job, |run| {
                let transport = transport.clone();
                Arc::new(move |calls: Vec<Call>| {
                    let (run, transport) = (run.clone(), transport.clone());
                    Box::pin(async move {
                        let causes: Vec<Envelope> = calls.iter().map(|call| call.envelope.clone()).collect();
                        let answers = run(calls).await;
                        for (answer, cause) in answers.iter().zip(&causes) {
                            if answer.result.is_err() {
                                publish_directly(&*transport, answer, cause).await;
                            }
                        }
                        answers
                    })
                })
            })
        }),
        mutant!(publishes_new_ids, "gives what a handler publishes a new id each time", |job| publishes(
            job,
            |message| {
                if is_said(message) {
                    message.envelope.set_id(MessageId::new(Timestamp::now()));
                }
            }
        )),
        mutant!(numbers_what_is_published, "derives ids from the order of what is published alone", |job| {
            with(job, |inner| Arc::new(Decorated::new(inner, Numbers)))
        }),
        mutant!(breaks_the_flow, "begins a new flow with what a handler publishes", |job| publishes(
            job,
            |message| {
                if message.envelope.causation_id().is_some() {
                    let id = message.envelope.id().clone();
                    message.envelope.set_correlation_id(id);
                }
            }
        )),
        mutant!(breaks_the_trace, "begins a new trace with what a handler publishes", |job| publishes(
            job,
            |message| {
                if message.envelope.causation_id().is_some() {
                    message.envelope.set_trace(msgkit::envelope::trace::TraceContext::root(7, 7));
                }
            }
        )),
        mutant!(handles_keys_at_once, "lets lanes take messages of one key as they come", |job| policies(
            job,
            |policy| policy.order = Order::None
        )),
        mutant!(overtakes_always, "lets others overtake where the key is to wait", |job| policies(
            job,
            |policy| {
                if policy.order == Order::Key(OnFailure::Hold) {
                    policy.order = Order::Key(OnFailure::Overtake);
                }
            }
        )),
        mutant!(holds_always, "lets a key wait where others may overtake", |job| policies(job, |policy| {
            if policy.order == Order::Key(OnFailure::Overtake) {
                policy.order = Order::Key(OnFailure::Hold);
            }
        })),
        mutant!(orders_by_type, "keeps order among messages of one type alone", |job| {
            with(job, |inner| Arc::new(Decorated::new(inner, KeysByType)))
        }),
        mutant!(fails_whole_batches, "fails a whole batch for one of its messages", |job| functions(
            job,
            |run| {
                Arc::new(move |calls: Vec<Call>| {
                    let run = run.clone();
                    Box::pin(async move {
                        let mut answers = run(calls).await;
                        if answers.len() > 1 && answers.iter().any(|answer| answer.result.is_err()) {
                            for answer in &mut answers {
                                answer.result = Err(HandlerError::retry("one of the batch has failed"));
                            }
                        }
                        answers
                    })
                })
            }
        )),
        mutant!(confuses_a_batch, "fails the message beside the one that failed", |job| functions(
            job,
            |run| {
                Arc::new(move |calls: Vec<Call>| {
                    let run = run.clone();
                    Box::pin(async move {
                        let mut answers = run(calls).await;
                        let most = answers.len();
                        answers.rotate_right(1.min(most));
                        answers
                    })
                })
            }
        )),
        mutant!(makes_batches_larger, "makes batches larger than they may be", |job| handlers(
            job,
            |handler| {
                if let Takes::Batch(size, wait) = handler.takes {
                    handler.takes = Takes::Batch(size * 2, wait);
                }
            }
        )),
        mutant!(makes_batches_of_one, "never waits for a batch to fill", |job| handlers(job, |handler| {
            if let Takes::Batch(_, wait) = handler.takes {
                handler.takes = Takes::Batch(1, wait);
            }
        })),
        mutant!(shares_no_group, "gives everything to each instance of a group", |job| handlers(
            job,
            |handler| handler.group = None
        )),
        // Life cycle.
        mutant!(fetches_what_there_is, "fetches more than may be in hand", |job| policies(job, |policy| {
            policy.in_flight = 10_000;
        })),
        mutant!(runs_more_handlers, "runs more handlers at once than it may", |job| policies(
            job,
            |policy| {
                policy.concurrency += 2;
                policy.in_flight = policy.in_flight.max(policy.concurrency);
            }
        )),
        mutant!(drains_too_briefly, "breaks off what is in hand at a drain", |mut job| {
            job.drain_deadline = Duration::ZERO;
            job
        }),
        mutant!(settles_on_drain, "settles what it gives back", |job| with(job, |inner| Arc::new(
            Decorated::new(inner, SettlesAll)
        ))),
        handle!(does_not_pause, "ignores a pause", Change::NoPause),
        handle!(does_not_resume, "stays paused", Change::NoResume),
        handle!(does_not_attach, "ignores what is attached", Change::NoAttach),
        handle!(does_not_detach, "goes on with what is detached", Change::NoDetach),
        handle!(
            answers_for_anybody,
            "takes a pause of a handler that is not there",
            Change::AnswersForAnybody
        ),
    ]
}

/// The job on another transport.
fn with(mut job: Job, wrap: impl Fn(Arc<dyn Transport>) -> Arc<dyn Transport>) -> Job {
    job.transport = wrap(job.transport);
    job
}

fn handlers(mut job: Job, change: impl Fn(&mut JobHandler)) -> Job {
    job.handlers.iter_mut().for_each(change);
    job
}

fn policies(job: Job, change: fn(&mut msgkit::Policy)) -> Job {
    handlers(job, |handler| change(&mut handler.policy))
}

fn functions(job: Job, change: impl Fn(Function) -> Function) -> Job {
    handlers(job, |handler| handler.run = change(handler.run.clone()))
}

fn answers(job: Job, change: fn(&Call, Answer) -> Answer) -> Job {
    functions(job, |run| {
        Arc::new(move |calls: Vec<Call>| {
            let run = run.clone();
            Box::pin(async move {
                let answers = run(calls.clone()).await;
                calls.iter().zip(answers).map(|(call, answer)| change(call, answer)).collect()
            })
        })
    })
}

fn dispositions(answer: Answer, change: fn(Disposition, String) -> HandlerError) -> Answer {
    let result = answer.result.map_err(|error| change(error.disposition().clone(), error.to_string()));
    Answer::new(answer.said, result)
}

fn rebuilt(disposition: &Disposition, text: String) -> HandlerError {
    match disposition {
        Disposition::RetryAfter(after) => HandlerError::retry_after(text, *after),
        Disposition::Permanent => HandlerError::permanent(text),
        Disposition::Discard(reason) => HandlerError::discard(reason.clone()),
        _ => HandlerError::retry(text),
    }
}

/// Changes every message that the pipeline publishes.
fn publishes(job: Job, change: fn(&mut Outgoing)) -> Job {
    with(job, |inner| Arc::new(Decorated::new(inner, Edits(change))))
}

/// Changes every message that the pipeline reads.
fn reads(job: Job, change: fn(&mut Envelope)) -> Job {
    with(job, |inner| Arc::new(Decorated::new(inner, Reads(change))))
}

async fn publish_directly(transport: &dyn Transport, answer: &Answer, cause: &Envelope) {
    let mut batch = Vec::new();
    for said in &answer.said {
        let now = cause.time().unwrap_or(Timestamp::EPOCH);
        if let Ok(mut envelope) = msgkit::envelope_of(said, &msgkit::Text::from_static("conformance"), now) {
            envelope.set_cause(cause);
            batch.push(Outgoing::to_topic(envelope));
        }
    }
    let _ = transport.publish(batch).await;
}

/// What is wrong with a handle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Change {
    NoPause,
    NoResume,
    NoAttach,
    NoDetach,
    AnswersForAnybody,
}

struct Handle {
    inner: Box<dyn RunningPipeline>,
    change: Change,
}

#[async_trait]
impl RunningPipeline for Handle {
    async fn publish(&self, probe: &Probe) -> Result<Envelope, Error> {
        self.inner.publish(probe).await
    }

    async fn publish_envelope(&self, envelope: Envelope) -> Result<(), Error> {
        self.inner.publish_envelope(envelope).await
    }

    async fn pause(&self, handler: &str) -> Result<(), Error> {
        match self.change {
            Change::NoPause => Ok(()),
            Change::AnswersForAnybody => self.inner.pause(handler).await.or(Ok(())),
            _ => self.inner.pause(handler).await,
        }
    }

    async fn resume(&self, handler: &str) -> Result<(), Error> {
        if self.change == Change::NoResume { Ok(()) } else { self.inner.resume(handler).await }
    }

    async fn detach(&self, handler: &str) -> Result<(), Error> {
        if self.change == Change::NoDetach { Ok(()) } else { self.inner.detach(handler).await }
    }

    async fn attach(&self, handler: JobHandler) -> Result<(), Error> {
        if self.change == Change::NoAttach { Ok(()) } else { self.inner.attach(handler).await }
    }

    async fn drain(self: Box<Self>) -> Result<(), Error> {
        self.inner.drain().await
    }

    async fn crash(self: Box<Self>) {
        self.inner.crash().await;
    }
}
