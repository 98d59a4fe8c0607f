//! Commits beside the subscription's thread: the client tells what became of a commit only to who waits for it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{self, Sender};
use std::thread::{self, JoinHandle};

use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::topic_partition_list::TopicPartitionListElem;
use rdkafka::{Offset, TopicPartitionList};

use super::context::{Context, Event};
use super::partition::Commit;
use super::signal::Signal;

/// A thread that commits, one after the other, and notes the broker's word as an event.
pub(super) struct Committer {
    work: Option<Sender<Vec<Commit>>>,
    thread: Option<JoinHandle<()>>,
}

impl Committer {
    pub(super) fn begin(
        client: Arc<BaseConsumer<Context>>,
        context: Context,
        signal: Arc<Signal>,
    ) -> std::io::Result<Self> {
        let (work, todo) = mpsc::channel::<Vec<Commit>>();
        let thread = thread::Builder::new().name("msgkit-kafka-commit".to_owned()).spawn(move || {
            for commits in todo {
                // Without a word nothing would be committed any more.
                let result = catch_unwind(AssertUnwindSafe(|| commit(&client, &commits)));
                let result = result.unwrap_or(Err(KafkaError::ConsumerCommit(RDKafkaErrorCode::Fail)));
                context.note(Event::Committed(result));
                signal.ring();
            }
        })?;
        Ok(Self { work: Some(work), thread: Some(thread) })
    }

    /// Sends `commits`; the answer comes as an event.
    pub(super) fn send(&self, commits: Vec<Commit>) {
        if let Some(work) = &self.work {
            // The thread ends only when this is gone.
            let _ = work.send(commits);
        }
    }

    /// Waits for the broker's word on what is on its way.
    pub(super) fn end(&mut self) {
        self.work = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Committer {
    fn drop(&mut self) {
        self.end();
    }
}

/// Commits in place.
pub(super) fn commit(client: &BaseConsumer<Context>, commits: &[Commit]) -> Result<(), KafkaError> {
    let mut list = TopicPartitionList::with_capacity(commits.len());
    for commit in commits {
        let mut one = list.add_partition(&commit.topic, commit.number);
        one.set_offset(Offset::Offset(i64::try_from(commit.offset).unwrap_or(i64::MAX)))?;
        if !commit.metadata.is_empty() {
            one.set_metadata(&commit.metadata);
        }
    }
    client.commit(&list, CommitMode::Sync)?;
    // A partition of many may have been refused.
    list.elements().iter().try_for_each(TopicPartitionListElem::error)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rdkafka::ClientConfig;

    use super::*;
    use crate::client::Listening;

    /// Whoever waits for the word on a commit gets one, whatever happens to it.
    #[test]
    fn a_commit_that_panics_is_answered() {
        let context = Context::new(Listening(Default::default()));
        let native = ClientConfig::new().set("group.id", "g").clone();
        let client: BaseConsumer<Context> = native.create_with_context(context.clone()).unwrap();
        let signal = Arc::new(Signal::default());
        let mut committer = Committer::begin(Arc::new(client), context.clone(), signal.clone()).unwrap();
        let topic = "no name that the client takes\0".to_owned();
        let commit = Commit { epoch: 1, topic, number: 0, offset: 1, metadata: String::new(), counted_to: 0 };
        committer.send(vec![commit]);
        signal.wait(Duration::from_secs(60));
        committer.end();
        let events = context.take();
        assert!(events.iter().any(|event| matches!(event, Event::Committed(Err(_)))), "{events:?}");
    }
}
