//! Publishing: a call hands its whole batch to the client at once and waits for the brokers' word on each message.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use async_trait::async_trait;
use msgkit::envelope::NativeHeaders;
use msgkit::transport::{
    Destination, Outgoing, PublishError, Publisher, Rejected, TransportError, TransportErrorKind,
};
use msgkit::{Envelope, Topic};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::message::OwnedHeaders;
use rdkafka::producer::{BaseRecord, Producer as _, PurgeConfig, ThreadedProducer};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::client::{self, Listening};
use crate::cluster::Cluster;
use crate::config::Unkeyed;
use crate::error;
use crate::threads::Threads;
use crate::transport::Kafka;
use crate::wire;

/// How long to wait before a full buffer is tried again.
const FULL_AGAIN: Duration = Duration::from_millis(2);

pub(crate) type Client = ThreadedProducer<Listening>;

/// The producer of a transport, made at the first publish, and again after an error that ends it for good.
#[derive(Default)]
pub(crate) struct Sender {
    client: RwLock<Option<Arc<Client>>>,
    /// Tells publishers apart, for the partition of what has no key.
    seed: RandomState,
}

/// What one call waits for.
#[derive(Debug)]
struct Waiting {
    state: Mutex<Answers>,
    done: Notify,
}

#[derive(Debug, Default)]
struct Answers {
    open: usize,
    failed: Vec<(usize, KafkaError)>,
}

/// One message on its way; the client gives it back with the brokers' word.
#[derive(Debug)]
pub(crate) struct Ticket {
    waiting: Arc<Waiting>,
    index: usize,
}

impl Ticket {
    /// Takes the brokers' word.
    pub(crate) fn answer(&self, failed: Option<KafkaError>) {
        let mut answers = self.waiting.state.lock().unwrap_or_else(PoisonError::into_inner);
        answers.open = answers.open.saturating_sub(1);
        if let Some(error) = failed {
            answers.failed.push((self.index, error));
        }
        if answers.open == 0 {
            self.waiting.done.notify_one();
        }
    }
}

/// A message as the client takes it.
pub(crate) struct Parcel {
    topic: String,
    partition: Option<i32>,
    key: Option<Vec<u8>>,
    /// Taken when it is handed over.
    headers: Option<OwnedHeaders>,
    value: Option<bytes::Bytes>,
}

impl Sender {
    fn client(&self, cluster: &Cluster) -> Result<Arc<Client>, TransportError> {
        if let Some(client) = &*self.client.read().unwrap_or_else(PoisonError::into_inner)
            && client.client().fatal_error().is_none()
        {
            return Ok(client.clone());
        }
        let mut slot = self.client.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = &*slot {
            match client.client().fatal_error() {
                None => return Ok(client.clone()),
                Some((code, reason)) => {
                    tracing::warn!(%code, reason, "the Kafka producer cannot go on; it is made anew");
                }
            }
        }
        let native = client::producer(&cluster.address, &cluster.config);
        let made = native.create_with_context(Listening(cluster.said.clone()));
        let client: Client = made.map_err(|error| error::of(error, "making the Kafka producer"))?;
        Ok(slot.insert(Arc::new(client)).clone())
    }

    /// The partition of a message without a key.
    fn partition(&self, topic: &str, partitions: usize) -> Option<i32> {
        let mut hasher = self.seed.build_hasher();
        hasher.write(topic.as_bytes());
        let at = hasher.finish() % u64::try_from(partitions.max(1)).unwrap_or(1);
        i32::try_from(at).ok()
    }

    /// Lets go of the producer.
    pub(crate) fn drop_client(&self) -> Option<Arc<Client>> {
        self.client.write().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Waits for everything that is on its way, and lets nothing more go.
    pub(crate) async fn close(&self, threads: &Threads, patience: Duration) -> Result<(), TransportError> {
        let Some(client) = self.drop_client() else { return Ok(()) };
        let closing = threads.run(move || {
            let flushed = client.flush(patience);
            // Each call that still waits gets an answer.
            client.purge(PurgeConfig::default().queue().inflight());
            let _ = client.flush(Duration::from_secs(1));
            flushed
        });
        match closing.await {
            Ok(flushed) => flushed.map_err(|error| error::of(error, "flushing the Kafka producer")),
            Err(_) => Err(error::broke_off("closing the Kafka producer")),
        }
    }
}

impl Cluster {
    /// Hands `parcel` to the client; waits while its buffer is full.
    async fn hand(
        &self,
        client: &Client,
        parcel: &mut Parcel,
        waiting: &Arc<Waiting>,
        index: usize,
        until: Instant,
    ) -> Result<(), KafkaError> {
        let mut ticket = Box::new(Ticket { waiting: waiting.clone(), index });
        let mut headers = parcel.headers.take();
        loop {
            let mut record: BaseRecord<'_, [u8], [u8], Box<Ticket>> =
                BaseRecord::with_opaque_to(&parcel.topic, ticket);
            record.partition = parcel.partition;
            record.key = parcel.key.as_deref();
            record.payload = parcel.value.as_deref();
            record.headers = headers.take();
            match client.send(record) {
                Ok(()) => return Ok(()),
                Err((error, back)) => {
                    let full = error.rdkafka_error_code() == Some(Code::QueueFull);
                    if !full || Instant::now() >= until || self.is_closed() {
                        return Err(error);
                    }
                    ticket = back.delivery_opaque;
                    headers = back.headers;
                }
            }
            tokio::time::sleep(FULL_AGAIN).await;
        }
    }

    /// Publishes `parcels`, in order. An error tells which were not taken: each with its own reason.
    async fn send(&self, parcels: Vec<Result<Parcel, TransportError>>) -> Vec<(usize, TransportError)> {
        let count = parcels.len();
        let all =
            |from: usize, error: &dyn Fn() -> TransportError| (from..count).map(|at| (at, error())).collect();
        let client = match self.sender.client(self) {
            Ok(client) => client,
            Err(error) => {
                let text = error.to_string();
                return all(0, &|| TransportError::new(error.kind(), text.clone()));
            }
        };
        let waiting = Arc::new(Waiting { state: Mutex::default(), done: Notify::new() });
        let until = Instant::now() + self.config.publish_timeout;
        let mut refused: Vec<(usize, TransportError)> = Vec::new();
        let mut topics = Vec::with_capacity(count);
        for (index, parcel) in parcels.into_iter().enumerate() {
            let handed = match parcel {
                Ok(mut parcel) => {
                    waiting.state.lock().unwrap_or_else(PoisonError::into_inner).open += 1;
                    let handed = self.hand(&client, &mut parcel, &waiting, index, until).await;
                    let handed = handed.map_err(|error| {
                        waiting.state.lock().unwrap_or_else(PoisonError::into_inner).open -= 1;
                        self.not_taken(error, &parcel.topic)
                    });
                    topics.push(parcel.topic);
                    handed
                }
                Err(error) => Err(error),
            };
            if let Err(error) = handed {
                // What follows is not tried, so that nothing overtakes a message of its key.
                let kind = error.kind();
                refused.push((index, error));
                let behind = "a message before it in the batch was not taken";
                let behind_kind =
                    if kind == TransportErrorKind::Closed { kind } else { TransportErrorKind::Unavailable };
                refused.extend((index + 1..count).map(|at| (at, TransportError::new(behind_kind, behind))));
                break;
            }
        }
        loop {
            let told = waiting.done.notified();
            {
                let mut answers = waiting.state.lock().unwrap_or_else(PoisonError::into_inner);
                if answers.open == 0 {
                    let failed = std::mem::take(&mut answers.failed);
                    refused.extend(
                        failed.into_iter().map(|(at, error)| (at, self.not_taken(error, &topics[at]))),
                    );
                    break;
                }
            }
            told.await;
        }
        if refused.len() < count {
            self.said.forget();
        }
        refused.sort_by_key(|(at, _)| *at);
        refused
    }

    fn not_taken(&self, error: KafkaError, topic: &str) -> TransportError {
        if self.is_closed() {
            return error::closed();
        }
        if let Some(Code::UnknownTopic | Code::UnknownPartition | Code::UnknownTopicOrPartition) =
            error.rdkafka_error_code()
        {
            // The next to publish asks for it, and creates it where it is to be.
            self.forget(topic);
        }
        self.said.explain(error, &format!("publishing to `{topic}`"))
    }

    /// `outgoing` as the client takes it; `partitions` are those of its Kafka topic.
    fn parcel(
        &self,
        outgoing: &Outgoing,
        topic: String,
        partitions: usize,
    ) -> Result<Parcel, TransportError> {
        let envelope = &outgoing.envelope;
        let letter = matches!(outgoing.to, Destination::DeadLetter(_));
        let written = wire::write(envelope, !self.names.says(&topic, envelope.topic()), !letter);
        let key = match (letter, envelope.key()) {
            // Dead letters are kept by compaction: each has a key of its own until it is removed.
            (true, _) => Some(self.letter_key(envelope)),
            (false, key) => key.map(|key| key.as_bytes().to_vec()),
        };
        let bytes = written.head
            + written.value.as_ref().map_or(0, bytes::Bytes::len)
            + key.as_ref().map_or(0, Vec::len);
        // A copy is larger than its message, and must have a place all the same.
        let is_copy = matches!(outgoing.to, Destination::DeadLetter(_) | Destination::Retry { .. });
        let most = if is_copy { self.config.max_copy() } else { self.config.max_message };
        if bytes > most {
            return Err(error::invalid(format!(
                "message {} has {bytes} bytes with its headers, `max_message` allows {most}; send less, or raise it together with \
                 the topic's `max.message.bytes`",
                envelope.id(),
            )));
        }
        let ordered = key.is_none() && self.config.unkeyed == Unkeyed::Ordered;
        let partition = if ordered { self.sender.partition(&topic, partitions) } else { None };
        Ok(Parcel { topic, partition, key, headers: written.headers, value: written.value })
    }

    /// A key that no other dead letter has.
    fn letter_key(&self, envelope: &Envelope) -> Vec<u8> {
        let mut hasher = RandomState::new().build_hasher();
        hasher.write_i64(self.clock.now().as_micros());
        format!("{}/{:016x}", envelope.id(), hasher.finish()).into_bytes()
    }

    /// Publishes one record that is no envelope, and waits for the brokers' word.
    pub(crate) async fn send_raw(
        &self,
        topic: String,
        key: Option<Vec<u8>>,
        value: Option<bytes::Bytes>,
        headers: OwnedHeaders,
    ) -> Result<(), TransportError> {
        let parcel = Parcel { topic, partition: None, key, headers: Some(headers), value };
        match self.send(vec![Ok(parcel)]).await.pop() {
            Some((_, error)) => Err(error),
            None => Ok(()),
        }
    }
}

#[async_trait]
impl Publisher for Kafka {
    async fn publish(&self, batch: Vec<Outgoing>) -> Result<(), PublishError> {
        let cluster = self.cluster();
        if cluster.is_closed() {
            return Err(PublishError::all(batch, error::closed));
        }
        let names: Vec<_> = batch.iter().map(|outgoing| cluster.names.of(&outgoing.to)).collect();
        let wanted: Vec<(&str, crate::cluster::Kind)> = names
            .iter()
            .zip(&batch)
            .filter_map(|(name, outgoing)| {
                Some((name.as_ref().ok()?.as_str(), crate::cluster::Kind::of(&outgoing.to)))
            })
            .collect();
        let partitions = match cluster.ensure(&wanted).await {
            Ok(partitions) => partitions,
            Err(error) => {
                let (kind, text) = (error.kind(), msgkit::Chain(&error).to_string());
                return Err(PublishError::all(batch, || TransportError::new(kind, text.clone())));
            }
        };
        let parcels = names
            .into_iter()
            .zip(&batch)
            .map(|(name, outgoing)| {
                let name = name?;
                let partitions = partitions.get(&name).copied().unwrap_or(1);
                cluster.parcel(outgoing, name, partitions)
            })
            .collect();
        let refused = cluster.send(parcels).await;
        if refused.is_empty() {
            return Ok(());
        }
        let mut batch: Vec<Option<Outgoing>> = batch.into_iter().map(Some).collect();
        let rejected = refused
            .into_iter()
            .filter_map(|(at, error)| Some(Rejected { message: batch.get_mut(at)?.take()?, error }))
            .collect();
        Err(PublishError::new(rejected))
    }
}

impl Kafka {
    /// Publishes a record as a client does that knows nothing of msgkit: `payload` and `headers` as they are.
    ///
    /// # Errors
    /// [`TransportError`] where the broker does not take it.
    pub async fn publish_foreign(
        &self,
        topic: &Topic,
        payload: Option<bytes::Bytes>,
        headers: &NativeHeaders,
    ) -> Result<(), TransportError> {
        let cluster = self.cluster();
        let to = Destination::topic(topic.clone());
        let name = cluster.names.of(&to)?;
        cluster.ensure(&[(&name, crate::cluster::Kind::Topic)]).await?;
        cluster.send_raw(name, None, payload, wire::write_foreign(headers)).await
    }
}

#[cfg(test)]
mod tests {
    use msgkit::transport::Transport as _;
    use rdkafka::mocking::MockCluster;

    use super::*;
    use crate::KafkaConfig;
    use crate::cluster::Kind;
    use crate::testing::kafka;

    /// Who only publishes asks for topics only where one is not known: else one that was deleted would never be made again.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_topic_that_is_gone_is_asked_for_again() {
        let mock = MockCluster::new(1).unwrap();
        mock.create_topic("a.b", 1, 1).unwrap();
        let kafka = kafka(&mock, KafkaConfig::default());
        let cluster = kafka.cluster();
        cluster.ensure(&[("a.b", Kind::Topic)]).await.unwrap();
        assert!(cluster.knows("a.b"));
        cluster.not_taken(KafkaError::MessageProduction(Code::MessageTimedOut), "a.b");
        assert!(cluster.knows("a.b"));
        for code in [Code::UnknownTopic, Code::UnknownPartition, Code::UnknownTopicOrPartition] {
            cluster.ensure(&[("a.b", Kind::Topic)]).await.unwrap();
            cluster.not_taken(KafkaError::MessageProduction(code), "a.b");
            assert!(!cluster.knows("a.b"), "{code:?}");
        }
    }

    /// Once the client knows how many partitions there are it refuses a message for another one before it is sent.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_topic_that_has_fewer_partitions_now_is_asked_for_again() {
        let mock = MockCluster::new(1).unwrap();
        mock.create_topic("a.b", 1, 1).unwrap();
        let kafka = kafka(&mock, KafkaConfig::default());
        let cluster = kafka.cluster();
        cluster.ensure(&[("a.b", Kind::Topic)]).await.unwrap();
        let to = async |partition| {
            let value = Some(bytes::Bytes::from_static(b"1"));
            let topic = "a.b".to_owned();
            let parcel = Parcel { topic, partition: Some(partition), key: None, headers: None, value };
            cluster.send(vec![Ok(parcel)]).await.len()
        };
        assert_eq!(to(0).await, 0);
        assert!(cluster.knows("a.b"));
        assert_eq!(to(7).await, 1);
        assert!(!cluster.knows("a.b"), "its partitions are not those that were known");
        kafka.close().await.unwrap();
    }
}
