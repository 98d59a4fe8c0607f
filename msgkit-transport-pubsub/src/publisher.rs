//! Publishing: a call hands its whole batch to the client at once and waits for the service's word on each message.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use futures_util::future::{join, join_all};
use google_cloud_pubsub::client::Publisher as Client;
use google_cloud_pubsub::error::PublishError as Failed;
use google_cloud_pubsub::model::Message;
use msgkit::Topic;
use msgkit::envelope::NativeHeaders;
use msgkit::transport::{
    Destination, Outgoing, PublishError, Publisher, Rejected, TransportError, TransportErrorKind,
};
use tokio::sync::{OwnedSemaphorePermit, RwLock, Semaphore};
use tokio::time::timeout;

use crate::core::{Core, closing};
use crate::error::{self, closed, code};
use crate::transport::Pubsub;
use crate::wire;

/// The client keeps a task for each ordering key that it has seen, for ever. After so many it is made anew.
const MOST_KEYS: usize = 10_000;

/// The clients that publish, one for each topic, and the room for what is on its way.
pub(crate) struct Sender {
    lanes: Mutex<HashMap<String, Arc<RwLock<Lane>>>>,
    room: Arc<Semaphore>,
    most: usize,
    most_keys: usize,
}

struct Lane {
    client: Client,
    keys: Mutex<HashSet<String>>,
}

impl fmt::Debug for Sender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sender").field("room", &self.room.available_permits()).finish_non_exhaustive()
    }
}

/// A message on its way: where it stood in the batch, its topic, itself.
type Parcel = (usize, String, Message);

impl Sender {
    pub(crate) fn new(most: usize) -> Self {
        Self { lanes: Mutex::default(), room: Arc::new(Semaphore::new(most)), most, most_keys: MOST_KEYS }
    }

    /// Room for `bytes`, or for all there is where they are more.
    async fn room(&self, bytes: usize, core: &Arc<Core>) -> Result<OwnedSemaphorePermit, TransportError> {
        let permits = u32::try_from(bytes.min(self.most)).unwrap_or(u32::MAX);
        let patience = core.config.publish_timeout;
        tokio::select! {
            biased;
            () = closing(core) => Err(closed()),
            room = timeout(patience, self.room.clone().acquire_many_owned(permits)) => match room {
                Ok(Ok(permit)) => Ok(permit),
                Ok(Err(_)) => Err(closed()),
                Err(_) => Err(TransportError::new(
                    TransportErrorKind::Full,
                    format!(
                        "{} bytes have been on their way to Pub/Sub for {patience:?}, as many as `publish_buffer` allows: publish \
                         less at once, or raise it",
                        self.most
                    ),
                )),
            },
        }
    }
}

impl Core {
    /// The client of a topic; one that has seen too many keys is exchanged when nothing of it is on its way.
    async fn lane(&self, topic: &str) -> Result<Arc<RwLock<Lane>>, TransportError> {
        let known = {
            let lanes = self.sender.lanes.lock().unwrap_or_else(PoisonError::into_inner);
            lanes.get(topic).cloned()
        };
        let Some(lane) = known else {
            let new = Arc::new(RwLock::new(self.new_lane(topic).await?));
            let mut lanes = self.sender.lanes.lock().unwrap_or_else(PoisonError::into_inner);
            return Ok(lanes.entry(topic.to_owned()).or_insert(new).clone());
        };
        let most = self.sender.most_keys;
        let worn = |lane: &Lane| lane.keys.lock().unwrap_or_else(PoisonError::into_inner).len() >= most;
        if worn(&*lane.read().await) {
            let mut all = lane.write().await;
            if worn(&all) {
                *all = self.new_lane(topic).await?;
            }
        }
        Ok(lane)
    }

    async fn new_lane(&self, topic: &str) -> Result<Lane, TransportError> {
        let base = self.clients.publisher().await?;
        let client = base.publisher(topic).set_delay_threshold(self.config.linger).build();
        Ok(Lane { client, keys: Mutex::default() })
    }

    /// Publishes one message by a client of its own, also while the transport closes; answers whether the service has taken it.
    pub(crate) async fn send_apart(&self, topic: &str, message: Message) -> bool {
        let Ok(lane) = self.new_lane(topic).await else { return false };
        let taken = lane.client.publish(message);
        lane.client.flush().await;
        taken.await.is_ok()
    }

    /// Publishes `parcels`, in order; answers which were not taken, and why. It goes on though nobody waits any more, so that
    /// what is on its way is always bounded, and a key that failed is always resumed.
    async fn send(self: &Arc<Self>, parcels: Vec<Parcel>) -> Vec<(usize, TransportError)> {
        let indices: Vec<usize> = parcels.iter().map(|(index, _, _)| *index).collect();
        let bytes = parcels.iter().map(|(_, _, message)| wire::bytes(message)).sum();
        let all = |error: TransportError| {
            let (kind, text) = (error.kind(), msgkit::Chain(&error).to_string());
            indices.iter().map(|index| (*index, TransportError::new(kind, text.clone()))).collect()
        };
        let room = match self.sender.room(bytes, self).await {
            Ok(room) => room,
            Err(error) => return all(error),
        };
        let core = self.clone();
        match tokio::spawn(async move { core.send_all(parcels, room).await }).await {
            Ok(Ok(refused)) => refused,
            Ok(Err(error)) => all(error),
            Err(_) => all(TransportError::new(TransportErrorKind::Internal, "a publish broke off")),
        }
    }

    async fn send_all(
        &self,
        parcels: Vec<Parcel>,
        room: OwnedSemaphorePermit,
    ) -> Result<Vec<(usize, TransportError)>, TransportError> {
        let generation = self.clients.publishers();
        let mut waiting = Vec::with_capacity(parcels.len());
        // In one order in every call: two that wait for each other's would wait for ever.
        let mut topics: BTreeMap<String, Vec<(usize, Message)>> = BTreeMap::new();
        for (index, topic, message) in parcels {
            topics.entry(topic).or_default().push((index, message));
        }
        let mut lanes = HashMap::new();
        for topic in topics.keys() {
            lanes.insert(topic.clone(), self.lane(topic).await?.read_owned().await);
        }
        for (topic, messages) in topics {
            let Some(lane) = lanes.get(&topic) else { continue };
            // Until all are handed over: another call's resumption of a key among them would part them.
            let mut keys = lane.keys.lock().unwrap_or_else(PoisonError::into_inner);
            for (index, message) in messages {
                let key = message.ordering_key.clone();
                if !key.is_empty() && !keys.contains(&key) {
                    keys.insert(key.clone());
                }
                let (topic, taken) = (topic.clone(), lane.client.publish(message));
                waiting.push(async move { (index, topic, key, taken.await) });
            }
        }
        let flushing =
            join_all(lanes.values().filter(|_| self.config.linger.is_zero()).map(|lane| lane.client.flush()));
        let (answers, _) = join(join_all(waiting), flushing).await;
        drop(room);
        let mut refused = Vec::new();
        let mut failed = HashSet::new();
        for (index, topic, key, answer) in answers {
            if let Err(error) = answer {
                refused.push((index, self.not_taken(error, &topic)));
                failed.insert((topic, key));
            }
        }
        // Its connection may be silent, which the client would not notice.
        let silent = refused.iter().any(|(_, error)| error.kind() == TransportErrorKind::Timeout);
        if silent && self.clients.renew_publisher(generation) {
            tracing::warn!("Pub/Sub did not answer publishes in time; another connection is opened");
            self.sender.lanes.lock().unwrap_or_else(PoisonError::into_inner).clear();
        }
        for (topic, key) in failed {
            if let (Some(lane), false) = (lanes.get(&topic), key.is_empty()) {
                // The client answers before it has stopped the key.
                lane.client.flush().await;
                let _keys = lane.keys.lock().unwrap_or_else(PoisonError::into_inner);
                lane.client.resume_publish(key);
            }
        }
        Ok(refused)
    }

    fn not_taken(&self, error: Failed, topic: &str) -> TransportError {
        if self.is_closed() {
            return closed();
        }
        let doing = format!("publishing to `{topic}`");
        match error {
            Failed::Rpc(error) => {
                let (kind, hint) = error::classify(&error);
                if code(&error) == Some(google_cloud_gax::error::rpc::Code::NotFound) {
                    // Somebody has deleted it; the next publish makes it again, or says that it is missing.
                    self.forget();
                }
                TransportError::new(kind, format!("{doing} failed{hint}")).with_source(error)
            }
            Failed::OrderingKeyPaused => TransportError::new(
                TransportErrorKind::Unavailable,
                format!("{doing} was not tried: a message of its key before it was not taken"),
            ),
            _ => TransportError::new(
                TransportErrorKind::Unavailable,
                format!("{doing} failed: the client has ended"),
            ),
        }
    }

    /// `outgoing` as the client takes it.
    fn message(&self, outgoing: &Outgoing) -> Result<Message, TransportError> {
        let envelope = &outgoing.envelope;
        let mut message = wire::write(envelope);
        let is_letter = matches!(outgoing.to, Destination::DeadLetter(_));
        if is_letter {
            // Any of them may be removed, and the service takes settlements of a key in its order alone.
            message.ordering_key.clear();
        }
        let bytes = wire::bytes(&message);
        // A copy is larger than its message, and must have a place all the same.
        let is_copy = is_letter || matches!(outgoing.to, Destination::Retry { .. });
        let most = self.config.max_message + if is_copy { crate::config::COPY / 2 } else { 0 };
        if bytes > most || (!is_copy && envelope.payload().len() > self.config.max_payload()) {
            return Err(error::invalid(format!(
                "message {} has {bytes} bytes with its attributes, `max_message` allows {most}, and the service 10 MB; send less",
                envelope.id(),
            )));
        }
        Ok(message)
    }

    /// Waits for everything that is on its way.
    pub(crate) async fn flush_publishers(&self) {
        let lanes: Vec<_> = {
            let mut lanes = self.sender.lanes.lock().unwrap_or_else(PoisonError::into_inner);
            lanes.drain().map(|(_, lane)| lane).collect()
        };
        for lane in lanes {
            lane.read().await.client.flush().await;
        }
    }
}

#[async_trait]
impl Publisher for Pubsub {
    async fn publish(&self, batch: Vec<Outgoing>) -> Result<(), PublishError> {
        let core = self.core();
        if core.is_closed() {
            return Err(PublishError::all(batch, closed));
        }
        let named = batch.iter().map(|outgoing| Ok((&outgoing.to, core.names.of_message(outgoing)?)));
        let ensured = match named.collect::<Result<Vec<_>, TransportError>>() {
            Ok(named) => core.ensure_all(named).await,
            Err(error) => Err(error),
        };
        if let Err(error) = ensured {
            let (kind, text) = (error.kind(), msgkit::Chain(&error).to_string());
            return Err(PublishError::all(batch, || TransportError::new(kind, text.clone())));
        }
        let mut refused = Vec::new();
        let mut parcels = Vec::with_capacity(batch.len());
        for (index, outgoing) in batch.iter().enumerate() {
            if !refused.is_empty() {
                // What follows is not tried, so that nothing overtakes a message of its key.
                let text = "a message before it in the batch was not taken";
                refused.push((index, TransportError::new(TransportErrorKind::Unavailable, text)));
                continue;
            }
            let topic = core.names.of_message(outgoing);
            match topic.and_then(|topic| Ok((core.message(outgoing)?, topic))) {
                Ok((message, topic)) => parcels.push((index, topic, message)),
                Err(error) => refused.push((index, error)),
            }
        }
        if !parcels.is_empty() {
            refused.extend(core.send(parcels).await);
        }
        if refused.is_empty() {
            return Ok(());
        }
        refused.sort_by_key(|(index, _)| *index);
        let mut batch: Vec<Option<Outgoing>> = batch.into_iter().map(Some).collect();
        let rejected = refused
            .into_iter()
            .filter_map(|(at, error)| Some(Rejected { message: batch.get_mut(at)?.take()?, error }))
            .collect();
        Err(PublishError::new(rejected))
    }
}

impl Pubsub {
    /// Publishes a message as a client does that knows nothing of msgkit: `payload` and `headers` as they are.
    ///
    /// # Errors
    /// [`TransportError`] where the service does not take it.
    pub async fn publish_foreign(
        &self,
        topic: &Topic,
        payload: bytes::Bytes,
        headers: &NativeHeaders,
    ) -> Result<(), TransportError> {
        let to = Destination::topic(topic.clone());
        let name = self.core().names.of(&to)?;
        self.core().ensure_all([(&to, name.clone())]).await?;
        self.send_one(name, wire::write_foreign(payload, headers)).await
    }

    /// Publishes one message as it is.
    pub(crate) async fn send_one(&self, topic: String, message: Message) -> Result<(), TransportError> {
        match self.core().send(vec![(0, topic, message)]).await.pop() {
            Some((_, error)) => Err(error),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
