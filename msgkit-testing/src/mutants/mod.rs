//! Transports and pipelines that are broken in one way each, to test the conformance suite: it must reject every one.
//!
//! A framework of which somebody says that it never loses a message is as good as the suite that would notice. Most of
//! these mistakes were made by some framework or broker client once.
//!
//! A [`Mutant`] is anything that can be put in the place of a right transport or pipeline; [`judge`] tells which case
//! rejects it.

/// All that a decorator of these rooms has to say of itself.
macro_rules! debug {
    ($($name:ident),* $(,)?) => {
        $(impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(stringify!($name))
            }
        })*
    };
}

mod pipelines;
mod receiving;
mod sending;
mod steps;
mod transports;

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use msgkit::envelope::NativeHeaders;
use msgkit::transport::{Transport, TransportError};
use msgkit::{Registry, Topic};

use crate::conformance::{
    Broker, Fault, MemorySubject, MsgkitPipeline, NotRun, Pipeline, Setup, Subject, Time, Verdict, cases, run,
};

/// Something that is broken in one way.
pub trait Mutant: Send + Sync {
    /// Its name.
    fn name(&self) -> &str;

    /// What is wrong with it.
    fn mistake(&self) -> &str;

    /// `transport` as it has it.
    fn transport(&self, transport: Arc<dyn Transport>) -> Arc<dyn Transport> {
        transport
    }

    /// The pipeline as it has it.
    fn pipeline(&self) -> Arc<dyn Pipeline> {
        Arc::new(MsgkitPipeline::default())
    }
}

/// What became of a mutant.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Judgement {
    /// A case rejects it.
    Killed {
        /// The case.
        case: &'static str,
        /// What the case said.
        why: String,
    },
    /// No case notices: the suite has a hole.
    Survived,
}

/// Every mutant that is known here.
#[must_use]
pub fn all() -> Vec<Box<dyn Mutant>> {
    let mut all = transports::all();
    all.extend(pipelines::all());
    all
}

/// Runs the suite on `mutant`, on both kinds of memory transport, until a case rejects it.
#[must_use]
pub fn judge(mutant: &Arc<dyn Mutant>) -> Judgement {
    let pipeline = mutant.pipeline();
    for subject in [MemorySubject::native(), MemorySubject::retry_topics()] {
        let subject = Mutated { subject, mutant: mutant.clone() };
        for case in cases::all() {
            if let Verdict::Broken(why) = run(&case, &subject, &pipeline) {
                return Judgement::Killed { case: case.name, why };
            }
        }
    }
    Judgement::Survived
}

/// A subject whose connections a mutant has.
struct Mutated {
    subject: MemorySubject,
    mutant: Arc<dyn Mutant>,
}

#[async_trait]
impl Subject for Mutated {
    fn name(&self) -> String {
        self.mutant.name().to_owned()
    }

    fn version(&self) -> String {
        self.subject.version()
    }

    fn time(&self) -> Time {
        self.subject.time()
    }

    async fn broker(&self, setup: &Setup) -> Result<Box<dyn Broker>, NotRun> {
        Ok(Box::new(MutatedBroker(self.subject.broker(setup).await?, self.mutant.clone())))
    }

    fn secrets(&self) -> Option<(Registry, String, Vec<String>)> {
        self.subject.secrets()
    }
}

struct MutatedBroker(Box<dyn Broker>, Arc<dyn Mutant>);

#[async_trait]
impl Broker for MutatedBroker {
    async fn connect(&self) -> Result<Arc<dyn Transport>, TransportError> {
        Ok(self.1.transport(self.0.connect().await?))
    }

    async fn disconnect(&self) -> Fault {
        self.0.disconnect().await
    }

    async fn kill(&self, dying: BoxFuture<'_, ()>) -> Fault {
        self.0.kill(dying).await
    }

    async fn publish_foreign(&self, topic: &Topic, payload: Bytes, headers: &NativeHeaders) -> Fault {
        self.0.publish_foreign(topic, payload, headers).await
    }
}

impl fmt::Debug for dyn Mutant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mutant").field("name", &self.name()).finish_non_exhaustive()
    }
}
