//! What the client tells a subscription: which partitions it gets and has to give, what became of commits. All of it is
//! only noted here, and done by the subscription's thread.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rdkafka::TopicPartitionList;
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext};
use rdkafka::error::KafkaError;
use rdkafka::types::RDKafkaRespErr;

use crate::client::Listening;

/// What happened.
#[derive(Debug)]
pub(super) enum Event {
    /// The group gives partitions to this member, which has to take them.
    Assigned(TopicPartitionList),
    /// The group takes partitions away, which the member has to give; `lost` where they have another owner already.
    Revoked { partitions: TopicPartitionList, lost: bool },
    /// The broker's word on the commit that was on its way.
    Committed(Result<(), KafkaError>),
    /// Something that is only to be looked at again.
    Other,
}

/// The context of a subscription's client.
#[derive(Clone)]
pub(super) struct Context {
    listening: Listening,
    events: Arc<Mutex<Vec<Event>>>,
    /// Set before the client is dropped, which gives everything back by itself.
    leaving: Arc<AtomicBool>,
}

impl Context {
    pub(super) fn new(listening: Listening) -> Self {
        Self { listening, events: Arc::default(), leaving: Arc::default() }
    }

    /// What happened since the last call.
    pub(super) fn take(&self) -> Vec<Event> {
        std::mem::take(&mut *self.events.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// How many events wait.
    pub(super) fn waiting(&self) -> usize {
        self.events.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// From now on partitions are given at once.
    pub(super) fn leave(&self) {
        self.leaving.store(true, Ordering::Release);
    }

    pub(super) fn note(&self, event: Event) {
        self.events.lock().unwrap_or_else(PoisonError::into_inner).push(event);
    }
}

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, text: &str) {
        self.listening.log(level, facility, text);
        self.note(Event::Other);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.listening.error(error, reason);
        self.note(Event::Other);
    }
}

impl ConsumerContext for Context {
    fn rebalance(
        &self,
        consumer: &BaseConsumer<Self>,
        what: RDKafkaRespErr,
        partitions: &mut TopicPartitionList,
    ) {
        let assigned = what == RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS;
        if self.leaving.load(Ordering::Acquire) {
            let answered = if assigned {
                consumer.incremental_assign(&TopicPartitionList::new())
            } else {
                consumer.incremental_unassign(partitions)
            };
            if let Err(error) = answered {
                tracing::debug!(error = %error, "the Kafka client refused a change of its partitions while it left");
            }
            return;
        }
        self.note(if assigned {
            Event::Assigned(partitions.clone())
        } else {
            Event::Revoked { partitions: partitions.clone(), lost: consumer.assignment_lost() }
        });
    }
}
