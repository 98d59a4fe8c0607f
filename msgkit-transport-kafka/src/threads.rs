//! Threads for what blocks: questions to the brokers, and the ends of clients, which wait for threads of their own.
//!
//! They are none of the service's runtime. When that one ends it waits for all that blocks on it, and a process that was told
//! to end would wait for brokers that do not answer.

use std::cell::RefCell;
use std::sync::{Arc, Weak};

use tokio::runtime::{Builder, Runtime};
use tokio::task::{self, JoinError, JoinHandle};

thread_local! {
    /// Whoever waits for the question that this thread is at.
    static ASKED_BY: RefCell<Option<Weak<()>>> = const { RefCell::new(None) };
}

/// The threads of one transport, each kept for a while for what comes next. Nobody waits for them.
pub(crate) struct Threads(Option<Runtime>);

impl Threads {
    pub(crate) fn new() -> Self {
        // It runs no task: of a runtime only the threads for what blocks are wanted, which are made when they are needed.
        Self(Builder::new_current_thread().thread_name("msgkit-kafka-ask").build().ok())
    }

    /// Does `work` on one of them, to its end.
    pub(crate) fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
        match &self.0 {
            Some(threads) => threads.spawn_blocking(work),
            None => task::spawn_blocking(work),
        }
    }

    /// Drops `client` on one of them, also where there is no runtime to run on.
    pub(crate) fn end<T: Send + 'static>(&self, client: Option<T>) {
        if let (Some(threads), Some(client)) = (&self.0, client) {
            drop(threads.spawn_blocking(move || drop(client)));
        }
    }

    /// Shares `client`, which ends on one of them.
    pub(crate) fn share<T: Send + Sync + 'static>(&self, client: T) -> (Ending<'_, T>, Arc<T>) {
        let client = Arc::new(client);
        (Ending { client: Some(client.clone()), threads: self }, client)
    }

    /// Puts `question`, which can see by [`nobody_waits`] that this future was dropped.
    pub(crate) async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, JoinError> {
        let waits = Arc::new(());
        let asked_by = Arc::downgrade(&waits);
        let asking = self.run(move || {
            ASKED_BY.set(Some(asked_by));
            let answer = question();
            ASKED_BY.set(None);
            answer
        });
        let answer = asking.await;
        drop(waits);
        answer
    }
}

/// A client, the end of which blocks: wherever this is dropped, that comes to pass on a thread for it. Of the clones of the
/// client this has to be the last.
pub(crate) struct Ending<'a, T: Send + Sync + 'static> {
    client: Option<Arc<T>>,
    threads: &'a Threads,
}

impl<T: Send + Sync + 'static> Drop for Ending<'_, T> {
    fn drop(&mut self) {
        self.threads.end(self.client.take());
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        if let Some(threads) = self.0.take() {
            threads.shutdown_background();
        }
    }
}

/// Whether who asked the question that this thread is at has gone; on a thread that nobody asked, no.
pub(crate) fn nobody_waits() -> bool {
    ASKED_BY.with_borrow(|asked_by| asked_by.as_ref().is_some_and(|asked_by| asked_by.strong_count() == 0))
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use msgkit::envelope::Clock;
    use msgkit::transport::{
        Declaration, Group, Subscription, Transport as _, TransportErrorKind, TransportUrl,
    };
    use rdkafka::mocking::MockCluster;

    use crate::cluster::Cluster;
    use crate::testing::kafka;
    use crate::{Kafka, KafkaConfig};

    /// What comes soon takes less, on a busy machine too; and nobody could wait for a question without an end.
    const SOON: Duration = Duration::from_secs(20);

    fn nobody_there() -> Kafka {
        let config = KafkaConfig { connect_timeout: Duration::from_secs(600), ..KafkaConfig::default() };
        Kafka::with(&TransportUrl::parse("kafka://127.0.0.1:1").unwrap(), config, Clock::system()).unwrap()
    }

    /// A process that is told to end while it starts ends with its runtime.
    #[test]
    fn a_runtime_ends_while_no_broker_answers() {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let kafka = nobody_there();
        let subscription = Subscription::group(Group::new("g").unwrap(), ["a.b".parse().unwrap()]);
        let wanted = [Declaration::Group { subscription, retry_steps: Vec::new(), dead_letters: true }];
        let declaring = async { tokio::time::timeout(Duration::from_secs(2), kafka.declare(&wanted)).await };
        assert!(runtime.block_on(declaring).is_err(), "nobody is there to answer");
        let (ended, has_ended) = mpsc::channel();
        std::thread::spawn(move || {
            drop(runtime);
            drop(kafka);
            let _ = ended.send(());
        });
        has_ended.recv_timeout(SOON).expect("the runtime waits for no broker");
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_question_ends_when_nobody_waits_for_its_answer() {
        let kafka = nobody_there();
        let (begun, has_begun) = tokio::sync::oneshot::channel();
        let (ended, has_ended) = tokio::sync::oneshot::channel();
        let asking = kafka.cluster().ask("asking", move |cluster| {
            let _ = begun.send(());
            let answer = cluster.list_topics().map(drop);
            let _ = ended.send(());
            answer
        });
        tokio::select! {
            _ = asking => panic!("nobody is there to answer"),
            begun = has_begun => begun.unwrap(),
        }
        tokio::time::timeout(SOON, has_ended).await.expect("the question ends").unwrap();
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_question_ends_when_the_transport_is_closed() {
        let kafka = nobody_there();
        let (begun, has_begun) = tokio::sync::oneshot::channel();
        let asking = kafka.cluster().ask("asking", move |cluster| {
            let _ = begun.send(());
            cluster.list_topics().map(drop)
        });
        let closing = async {
            has_begun.await.unwrap();
            kafka.close().await.unwrap();
        };
        let both = async { tokio::join!(asking, closing).0 };
        let error = tokio::time::timeout(SOON, both).await.expect("the question ends").unwrap_err();
        assert_eq!(error.kind(), TransportErrorKind::Closed, "{error}");
    }

    /// Whether somebody still waits is looked at in between, and never at the cost of an answer that takes its time.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_slow_broker_has_the_time_that_it_needs() {
        let mock = MockCluster::new(1).unwrap();
        mock.create_topic("a.b", 1, 1).unwrap();
        mock.broker_round_trip_time(1, Duration::from_secs(2)).unwrap();
        let config = KafkaConfig { connect_timeout: Duration::from_secs(60), ..KafkaConfig::default() };
        let kafka = kafka(&mock, config);
        let topics = kafka.cluster().ask("asking", Cluster::list_topics).await.unwrap();
        assert!(topics.contains_key("a.b"));
    }
}
