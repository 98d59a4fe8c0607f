//! Publishing: requests of many records, and what the service takes only some of.
//!
//! `PutRecords` may take any part of a request, so a record of a key could overtake an earlier one that was refused. A
//! request therefore holds one record of each key (unless `ordered = false`): the next one of a key goes when the one before
//! it is confirmed. Messages without a key have no order to keep across a refusal, and fill the rest of the request.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::Ordering;
use std::time::Duration;

use async_trait::async_trait;
use aws_sdk_kinesis::primitives::Blob;
use aws_sdk_kinesis::types::PutRecordsRequestEntry;
use futures_util::future::join_all;
use msgkit::transport::{Outgoing, PublishError, Publisher, Rejected, TransportError, TransportErrorKind};
use tokio::time::Instant;

use crate::core::Core;
use crate::error::{self, Cause, Failure, closed, meaning};
use crate::transport::Kinesis;
use crate::wire::Parcel;

/// The limits of one request.
const MOST_RECORDS: usize = 500;
const MOST_BYTES: usize = 5 << 20;
/// How long to wait after a refusal, at first and at most.
const AGAIN: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(5));

/// One record on its way; `at` is its message's place in the batch.
#[derive(Debug, Clone)]
struct Item {
    at: usize,
    parcel: Parcel,
}

/// The records of one stream, in lanes that keep their order.
#[derive(Debug, Default)]
struct Queue {
    /// What has an order to keep: one of each at a time.
    keyed: Vec<VecDeque<Item>>,
    /// What has none: as many at a time as there is room for.
    loose: VecDeque<Item>,
}

/// What became of one record.
type Refused = (usize, TransportError);

impl Queue {
    fn of(items: Vec<Item>, ordered: bool) -> Self {
        let mut queue = Self::default();
        let mut lanes: HashMap<String, usize> = HashMap::new();
        for item in items {
            if !(ordered && item.parcel.keyed) {
                queue.loose.push_back(item);
                continue;
            }
            let next = queue.keyed.len();
            let lane = *lanes.entry(item.parcel.partition_key.clone()).or_insert(next);
            if lane == next {
                queue.keyed.push(VecDeque::new());
            }
            queue.keyed[lane].push_back(item);
        }
        queue
    }

    fn is_empty(&self) -> bool {
        self.keyed.is_empty() && self.loose.is_empty()
    }

    /// The next request: the longest lanes first, since they need the most requests.
    fn next(&mut self) -> Vec<Item> {
        self.keyed.retain(|lane| !lane.is_empty());
        if self.keyed.len() > MOST_RECORDS {
            self.keyed.sort_by_key(|lane| std::cmp::Reverse(lane.len()));
        }
        let mut request: Vec<Item> = Vec::new();
        let mut bytes = 0;
        let mut fits = |item: &Item, count: usize| {
            let size = item.parcel.size();
            // One that is larger than a request by itself goes alone.
            let room = count == 0 || (count < MOST_RECORDS && bytes + size <= MOST_BYTES);
            bytes += if room { size } else { 0 };
            room
        };
        for lane in &mut self.keyed {
            let Some(first) = lane.front() else { continue };
            if !fits(first, request.len()) {
                break;
            }
            request.extend(lane.pop_front());
        }
        while let Some(first) = self.loose.front() {
            if !fits(first, request.len()) {
                break;
            }
            request.extend(self.loose.pop_front());
        }
        request
    }

    /// Puts back what was not taken, each to its old place.
    fn put_back(&mut self, items: Vec<Item>, ordered: bool) {
        for item in items.into_iter().rev() {
            if !(ordered && item.parcel.keyed) {
                self.loose.push_front(item);
                continue;
            }
            let key = &item.parcel.partition_key;
            // A lane that was emptied by this request is gone with its key; it begins anew.
            match self
                .keyed
                .iter_mut()
                .find(|lane| lane.front().is_some_and(|first| first.parcel.partition_key == *key))
            {
                Some(lane) => lane.push_front(item),
                None => self.keyed.push(VecDeque::from([item])),
            }
        }
    }

    /// What stands behind an item, and must not overtake it.
    fn behind(&mut self, item: &Item, ordered: bool) -> VecDeque<Item> {
        if !(ordered && item.parcel.keyed) {
            return VecDeque::new();
        }
        let key = &item.parcel.partition_key;
        let lane = self
            .keyed
            .iter_mut()
            .find(|lane| lane.front().is_some_and(|first| first.parcel.partition_key == *key));
        lane.map(std::mem::take).unwrap_or_default()
    }

    /// Everything that is left.
    fn rest(self) -> impl Iterator<Item = Item> {
        self.keyed.into_iter().flatten().chain(self.loose)
    }
}

impl Core {
    /// Puts the records of one stream there. Answers those that it did not take, with the reason.
    async fn put(&self, stream: &str, items: Vec<Item>) -> Vec<Refused> {
        let ordered = self.config.ordered;
        let mut queue = Queue::of(items, ordered);
        let mut refused = Vec::new();
        // Of a request that was refused as a whole: its halves go before anything else, until those are found that it is about.
        let mut suspects: VecDeque<Vec<Item>> = VecDeque::new();
        let mut end = Instant::now() + self.config.publish_timeout;
        let mut wait = AGAIN.0;
        while !(queue.is_empty() && suspects.is_empty()) {
            let request = suspects.pop_front().unwrap_or_else(|| queue.next());
            if request.is_empty() {
                break;
            }
            let left = end.saturating_duration_since(Instant::now());
            let closing = self.closing.notified();
            let mut closing = std::pin::pin!(closing);
            closing.as_mut().enable();
            let answer = if self.is_closed() {
                Err(Failure { cause: Cause::Other, error: closed() })
            } else {
                match tokio::time::timeout(left, self.put_once(stream, &request)).await {
                    Ok(answer) => answer,
                    Err(_) => Err(Failure {
                        cause: Cause::Other,
                        error: overdue(stream, self.config.publish_timeout, None),
                    }),
                }
            };
            let (back, why) = match answer {
                Ok(entries) => {
                    self.nudge(stream);
                    let (mut back, mut why, mut taken) = (Vec::new(), None, 0);
                    for (item, code) in request.into_iter().zip(entries) {
                        match code {
                            Some(code) => {
                                why.get_or_insert(code);
                                back.push(item);
                            }
                            None => taken += 1,
                        }
                    }
                    if taken > 0 {
                        // As long as it takes something, it is waited for.
                        end = Instant::now() + self.config.publish_timeout;
                    }
                    let Some(code) = why else {
                        wait = AGAIN.0;
                        continue;
                    };
                    let (cause, kind, hint) = meaning(&code);
                    let error = TransportError::new(
                        kind,
                        format!("stream `{stream}` did not take a record: {code}{hint}"),
                    );
                    (back, Failure { cause, error })
                }
                Err(failure) => (request, failure),
            };
            if why.cause == Cause::Throttled {
                self.throttled.fetch_add(back.len() as u64, Ordering::Relaxed);
            }
            if why.cause == Cause::Argument {
                // The service takes no such record, which says nothing of the others.
                match <[Item; 1]>::try_from(back) {
                    Ok([item]) => {
                        let behind = queue.behind(&item, ordered);
                        let (kind, text) = (why.error.kind(), why.error.to_string());
                        refuse(&mut refused, std::iter::once(item).chain(behind), kind, &text, why.error);
                    }
                    Err(mut back) => {
                        let half = back.split_off(back.len() / 2);
                        suspects.push_front(half);
                        suspects.push_front(back);
                    }
                }
                continue;
            }
            queue.put_back(back, ordered);
            let final_word = !why.error.is_temporary();
            if final_word || Instant::now() + wait >= end {
                // What stands behind a record that was refused must not overtake it, so all of it goes back.
                let (kind, text) = match final_word {
                    true => (why.error.kind(), why.error.to_string()),
                    false if why.error.kind() == TransportErrorKind::Timeout => {
                        (why.error.kind(), why.error.to_string())
                    }
                    false => (
                        why.error.kind(),
                        overdue(stream, self.config.publish_timeout, Some(&why.error)).to_string(),
                    ),
                };
                refuse(
                    &mut refused,
                    suspects.into_iter().flatten().chain(queue.rest()),
                    kind,
                    &text,
                    why.error,
                );
                return refused;
            }
            tokio::select! {
                () = tokio::time::sleep(wait.mul_f64(0.5 + fastrand::f64() / 2.0)) => {}
                () = closing => {}
            }
            wait = (wait * 2).min(AGAIN.1);
        }
        refused
    }

    /// One request: for each record, the code with which it was refused, if it was.
    async fn put_once(&self, stream: &str, request: &[Item]) -> Result<Vec<Option<String>>, Failure> {
        let doing = format!("publishing {} messages to stream `{stream}`", request.len());
        if let Some(first) = request.first() {
            self.ensure(stream, first.parcel.made).await?;
        }
        let mut call = self.account.client().await?.put_records().stream_name(stream);
        for item in request {
            let entry = PutRecordsRequestEntry::builder()
                .partition_key(&item.parcel.partition_key)
                .data(Blob::new(item.parcel.data.clone()))
                .build()
                .map_err(|error| {
                    TransportError::new(TransportErrorKind::Internal, doing.clone()).with_source(error)
                })?;
            call = call.records(entry);
        }
        let told = call.send().await.map_err(|error| {
            let failure = error::of(error, &doing);
            if failure.cause == Cause::NotFound {
                // Deleted since: it is made again where that is wished.
                self.forget(stream);
                if self.config.create {
                    let error =
                        TransportError::new(TransportErrorKind::Unavailable, failure.error.to_string());
                    return Failure { cause: Cause::Other, error: error.with_source(failure.error) };
                }
            }
            failure
        })?;
        if told.records.len() != request.len() {
            let text = format!("{doing}: the answer is about {} of them", told.records.len());
            return Err(TransportError::new(TransportErrorKind::Unavailable, text).into());
        }
        // Taken is what has a number; anything else was not, whatever the answer's own count says.
        let code = |entry: aws_sdk_kinesis::types::PutRecordsResultEntry| match (
            entry.sequence_number,
            entry.error_code,
        ) {
            (Some(_), None) => None,
            (_, code) => Some(code.unwrap_or_else(|| "InternalFailure".to_owned())),
        };
        Ok(told.records.into_iter().map(code).collect())
    }
}

/// Gives back `items`, all for one reason.
fn refuse(
    refused: &mut Vec<Refused>,
    items: impl Iterator<Item = Item>,
    kind: TransportErrorKind,
    text: &str,
    why: TransportError,
) {
    let why = std::sync::Arc::new(why);
    refused
        .extend(items.map(|item| (item.at, TransportError::new(kind, text).with_source(Told(why.clone())))));
}

fn overdue(stream: &str, patience: Duration, why: Option<&TransportError>) -> TransportError {
    let why = why.map(|why| format!(" ({why})")).unwrap_or_default();
    let text = format!("stream `{stream}` has taken nothing for the `publish_timeout` of {patience:?}{why}");
    TransportError::new(TransportErrorKind::Timeout, text)
}

/// One reason for many records.
#[derive(Debug, Clone)]
struct Told(std::sync::Arc<TransportError>);

impl std::fmt::Display for Told {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for Told {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        std::error::Error::source(&*self.0)
    }
}

#[async_trait]
impl Publisher for Kinesis {
    async fn publish(&self, batch: Vec<Outgoing>) -> Result<(), PublishError> {
        let core = self.core();
        if core.is_closed() {
            return Err(PublishError::all(batch, closed));
        }
        let mut refused: HashMap<usize, TransportError> = HashMap::new();
        let mut streams: Vec<(String, Vec<Item>)> = Vec::new();
        let mut places: HashMap<String, usize> = HashMap::new();
        for (at, message) in batch.iter().enumerate() {
            match Parcel::of(&message.to, &message.envelope, &core.names, &core.config) {
                Ok(parcel) => {
                    let place = *places.entry(parcel.stream.clone()).or_insert_with(|| {
                        streams.push((parcel.stream.clone(), Vec::new()));
                        streams.len() - 1
                    });
                    streams[place].1.push(Item { at, parcel });
                }
                Err(error) => {
                    refused.insert(at, error);
                }
            }
        }
        let puts = streams.into_iter().map(|(stream, items)| async move { core.put(&stream, items).await });
        refused.extend(join_all(puts).await.into_iter().flatten());
        if refused.is_empty() {
            return Ok(());
        }
        let rejected = batch
            .into_iter()
            .enumerate()
            .filter_map(|(at, message)| refused.remove(&at).map(|error| Rejected { message, error }))
            .collect();
        Err(PublishError::new(rejected))
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::making::Made;

    fn items(keys: &[&str], size: usize) -> Vec<Item> {
        keys.iter()
            .enumerate()
            .map(|(at, key)| Item {
                at,
                parcel: Parcel {
                    stream: "s".to_owned(),
                    partition_key: (*key).to_owned(),
                    keyed: !key.starts_with('~'),
                    data: Bytes::from(vec![0; size]),
                    made: Made::topic(&crate::config::KinesisConfig::default()),
                },
            })
            .collect()
    }

    fn at(items: &[Item]) -> Vec<usize> {
        items.iter().map(|item| item.at).collect()
    }

    #[test]
    fn a_request_has_one_record_of_each_key() {
        let mut queue = Queue::of(items(&["a", "a", "b", "~", "~", "a"], 1), true);
        assert_eq!(at(&queue.next()), [0, 2, 3, 4]);
        assert_eq!(at(&queue.next()), [1]);
        assert_eq!(at(&queue.next()), [5]);
        assert!(queue.next().is_empty());
        let mut queue = Queue::of(items(&["a", "a", "b"], 1), false);
        assert_eq!(at(&queue.next()), [0, 1, 2], "without order all go at once");
    }

    #[test]
    fn what_comes_back_has_its_old_place() {
        let mut queue = Queue::of(items(&["a", "a", "b", "~", "~", "~"], 1), true);
        let first = queue.next();
        assert_eq!(at(&first), [0, 2, 3, 4, 5]);
        let back = first.into_iter().filter(|item| [0, 2, 4].contains(&item.at)).collect();
        queue.put_back(back, true);
        let second = queue.next();
        assert_eq!(at(&second), [0, 2, 4], "1 stays behind 0");
        assert_eq!(at(&queue.next()), [1]);
    }

    #[test]
    fn requests_keep_the_limits() {
        let keys: Vec<String> = (0..1200).map(|n| format!("k{n}")).collect();
        let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
        let mut queue = Queue::of(items(&keys, 1), true);
        assert_eq!([queue.next().len(), queue.next().len(), queue.next().len()], [500, 500, 200]);
        let mut queue = Queue::of(items(&["~"; 12], 1 << 20), true);
        let sizes: Vec<usize> =
            std::iter::from_fn(|| Some(queue.next().len()).filter(|count| *count > 0)).collect();
        assert_eq!(sizes, [4, 4, 4], "five of a MiB and their keys are more than 5 MiB");
    }
}
