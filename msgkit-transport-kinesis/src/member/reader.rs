//! Reading one shard: from its checkpoint to its end, as fast as messages are taken.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use msgkit::transport::TransportErrorKind;
use tokio::time::Instant;

use super::Member;
use super::state::Ready;
use crate::error::{Cause, Failure};
use crate::lease::{Change, Lease};
use crate::marker::Known;
use crate::position::{Position, Sequence};
use crate::streams::Page;
use crate::wire::{Arrived, read};

/// What of a shard waits to be handed out, at most, before more is read: one read adds up to 10 MiB.
const MOST_WAITING: usize = 2_000;
const MOST_BYTES: usize = 8 << 20;
/// An iterator lives for five minutes.
const ITERATOR: Duration = Duration::from_secs(240);
/// How much longer than a read took the wait for the next one is, at least, where nothing came; and at most.
const SLOW: u32 = 4;
const MOST_PATIENT: Duration = Duration::from_secs(5);
/// How long to wait after a failure, at first and at most.
const AGAIN: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(10));
/// How often a place that the service does not take is tried.
const MISPLACED: u32 = 5;

/// How soon a subscription that is over is followed by the next.
const RESUBSCRIBE: Duration = Duration::from_secs(1);

/// What reading has been through since it worked last.
struct Trouble {
    /// How long to wait next.
    wait: Duration,
    warned: bool,
    /// How often the service did not take the place to read from.
    misplaced: u32,
    /// Whether there was no such stream, or shard: one that is there by now may be another of its name.
    gone: bool,
}

impl Trouble {
    fn new() -> Self {
        Self { wait: AGAIN.0, warned: false, misplaced: 0, gone: false }
    }
}

impl Member {
    /// Reads the shard of one generation until it is over, lost, or the member leaves.
    pub(super) async fn read(self: Arc<Self>, generation: u64) {
        match self.consumer_name() {
            Some(name) => self.be_pushed(generation, &name).await,
            None => self.poll(generation).await,
        }
    }

    async fn poll(&self, generation: u64) {
        let Some((stream, shard, mut at)) = self.place(generation) else { return };
        let place = format!("{stream}/{shard}");
        let mut iterator: Option<(String, Instant)> = None;
        let mut trouble = Trouble::new();
        let config = &self.core.config;
        let soon = (config.poll_interval / 8).max(config.read_interval);
        let mut idle = soon;
        while let Some(limit) = self.room_of(generation).await {
            if trouble.gone && !self.is_there_again(generation, &place, &mut trouble).await {
                return;
            }
            let began = Instant::now();
            let known =
                iterator.take().filter(|(_, since)| since.elapsed() < ITERATOR).map(|(known, _)| known);
            let got = async {
                let from = match known {
                    Some(known) => Some(known),
                    None => self.core.iterator(&stream, &shard, &at).await?,
                };
                match from {
                    Some(from) => self.core.records(&place, &from, limit).await.map(Some),
                    None => Ok(None),
                }
            };
            match got.await {
                Ok(Some(page)) => {
                    self.works(generation, &mut trouble);
                    let (empty, behind) = (page.records.is_empty(), page.behind);
                    if let Some(last) = page.records.last() {
                        at = Position::After(Sequence::new(&last.sequence_number));
                    }
                    let next = page.next.clone();
                    if !self.take_in(generation, &place, page) {
                        return;
                    }
                    let Some(next) = next else { return };
                    iterator = Some((next, Instant::now()));
                    // A service that takes long to answer has much to do: it is asked less often for what may be nothing.
                    let patient = idle.max((began.elapsed() * SLOW).min(MOST_PATIENT));
                    let pause = if empty && behind == 0 { patient } else { config.read_interval };
                    idle = if empty { (idle * 2).min(config.poll_interval) } else { soon };
                    // Not before the service takes the next read, whoever has published.
                    tokio::time::sleep(config.read_interval.min(pause).saturating_sub(began.elapsed())).await;
                    if self.pause(generation, pause.saturating_sub(began.elapsed())).await {
                        idle = soon;
                    }
                }
                // No iterator: the shard is closed, and all of it was read.
                Ok(None) => {
                    self.take_in(generation, &place, Page { records: Vec::new(), next: None, behind: 0 });
                    return;
                }
                // The next round asks for another, behind what was read last.
                Err(Failure { cause: Cause::Expired, .. }) => {}
                Err(failure) => {
                    if self.stumbled(generation, &place, &failure, &mut trouble).await {
                        return;
                    }
                }
            }
        }
    }

    /// The same where the service pushes.
    async fn be_pushed(&self, generation: u64, name: &str) {
        let Some((stream, shard, mut at)) = self.place(generation) else { return };
        let place = format!("{stream}/{shard}");
        let mut trouble = Trouble::new();
        let take = |page: Page, at: &mut Position| {
            if let Some(last) = page.records.last() {
                *at = Position::After(Sequence::new(&last.sequence_number));
            }
            let over = page.next.is_none();
            self.take_in(generation, &place, page) && !over
        };
        while let Some(limit) = self.room_of(generation).await {
            if trouble.gone && !self.is_there_again(generation, &place, &mut trouble).await {
                return;
            }
            let subscribed = async {
                // A closed shard of which all was read may push nothing any more: one read tells.
                let iterator = self.core.iterator(&stream, &shard, &at).await?;
                let page = match iterator {
                    Some(iterator) => self.core.records(&place, &iterator, limit).await?,
                    None => Page { records: Vec::new(), next: None, behind: 0 },
                };
                if !take(page, &mut at) {
                    return Ok(None);
                }
                let consumer = self.core.consumer(&stream, name).await?;
                self.core.push(&place, &consumer, &at).await.map(Some)
            };
            let failure = match subscribed.await {
                Ok(None) => return,
                Ok(Some(mut pushed)) => loop {
                    match pushed.next().await {
                        Ok(Some(page)) => {
                            self.works(generation, &mut trouble);
                            if !take(page, &mut at) {
                                return;
                            }
                        }
                        Ok(None) => break None,
                        Err(failure) => break Some(failure),
                    }
                    // What is pushed meanwhile waits in the connection, whose window is bounded.
                    if self.room_of(generation).await.is_none() {
                        return;
                    }
                },
                Err(failure) => Some(failure),
            };
            match failure {
                // The service takes one subscription a second for each shard.
                None => tokio::time::sleep(RESUBSCRIBE).await,
                Some(failure) => {
                    if self.stumbled(generation, &place, &failure, &mut trouble).await {
                        return;
                    }
                }
            }
        }
    }

    /// Who this group is to the service, where it is pushed to.
    fn consumer_name(&self) -> Option<String> {
        let group = self.subscription.group.as_ref()?;
        let pushed = self.core.config.fan_out && self.subscription.retry_step.is_none();
        pushed.then(|| self.core.names.consumer(group))
    }

    /// The shard is read.
    fn works(&self, generation: u64, trouble: &mut Trouble) {
        if std::mem::replace(trouble, Trouble::new()).wait > AGAIN.0
            && let Some(held) = self.lock().held.get_mut(&generation)
        {
            held.unread = None;
        }
    }

    /// After its stream was gone: waits until it is known to be the same one. Answers whether to read on.
    async fn is_there_again(&self, generation: u64, place: &str, trouble: &mut Trouble) -> bool {
        while self.room_of(generation).await.is_some() {
            match self.which_stream(generation).await {
                // Of one that has no marker yet nobody knows when it was made.
                Ok(Known::Yes | Known::Not) => {
                    trouble.gone = false;
                    return true;
                }
                // The keeper ends this reader, and begins another one.
                Ok(Known::Anew) => tokio::time::sleep(AGAIN.0).await,
                Err(failure) => {
                    if self.stumbled(generation, place, &failure, trouble).await {
                        return false;
                    }
                }
            }
        }
        false
    }

    /// After a failure: tells what is to be told, and waits. Answers whether trying again makes no sense.
    async fn stumbled(&self, generation: u64, place: &str, failure: &Failure, trouble: &mut Trouble) -> bool {
        match failure.cause {
            Cause::Throttled => {
                self.core.throttled.fetch_add(1, Ordering::Relaxed);
                if trouble.wait == AGAIN.1 && !std::mem::replace(&mut trouble.warned, true) {
                    let error = msgkit::Chain(&failure.error).to_string();
                    tracing::warn!(%place, error, "a shard is not read, as it is more than the service takes; trying again");
                }
            }
            // The subscription of whoever had the shard before is not over yet.
            Cause::InUse => {}
            Cause::NotFound if self.is_expired(place).await && self.is_same_stream(generation).await => {
                self.expired(generation, place);
                return true;
            }
            cause => {
                trouble.gone |= cause == Cause::NotFound;
                if cause == Cause::Argument && self.is_misplaced(generation).await {
                    trouble.misplaced += 1;
                }
                if !std::mem::replace(&mut trouble.warned, true) {
                    let error = msgkit::Chain(&failure.error).to_string();
                    tracing::warn!(%place, error, "a shard cannot be read; trying again");
                }
            }
        }
        let misplaced = trouble.misplaced >= MISPLACED;
        let begins = if misplaced { self.begin_again(generation).await } else { None };
        if begins == Some(true) {
            return true;
        }
        if failure.error.kind() == TransportErrorKind::Refused || (misplaced && begins.is_none()) {
            let text = msgkit::Chain(&failure.error).to_string();
            self.fail(failure.error.kind(), text);
            return true;
        }
        if trouble.wait == AGAIN.1 {
            let why = msgkit::Chain(&failure.error).to_string();
            if let Some(held) = self.lock().held.get_mut(&generation) {
                held.unread = Some(why);
            }
        }
        tokio::time::sleep(trouble.wait.mul_f64(0.5 + fastrand::f64())).await;
        trouble.wait = (trouble.wait * 2).min(AGAIN.1);
        false
    }

    /// Whether a place that the service does not take is none: its stream is the one that it was, and it is not one that comes.
    async fn is_misplaced(&self, generation: u64) -> bool {
        let Some((_, _, at)) = self.place(generation) else { return false };
        let comes = matches!(at, Position::Time(millis) if millis > self.core.clock.now().as_millis());
        self.is_same_stream(generation).await && !comes
    }

    /// Whether the stream is the one that it was, as far as these credentials may ask.
    async fn is_same_stream(&self, generation: u64) -> bool {
        matches!(self.which_stream(generation).await, Ok(Known::Yes))
    }

    /// What the stream is to the table. One that was made again begins anew, for which the keeper looks at the table.
    async fn which_stream(&self, generation: u64) -> Result<Known, Failure> {
        let Some((stream, _, _)) = self.place(generation) else { return Ok(Known::Not) };
        let looked = async {
            let Some(told) = self.core.described_if_allowed(&stream).await? else { return Ok(Known::Yes) };
            let rows = self.store.load(&self.space).await?;
            self.core.known(&*self.store, &self.space, &told, &rows).await
        };
        let known = looked.await?;
        // Also where all is as it was: another member may have put the shards of another stream into the table.
        self.lock().round_asked = true;
        self.due.notify_one();
        Ok(known)
    }

    /// A shard that was read before, and whose place the service does not take any more, begins again: rather twice than never,
    /// and the other shards go on. `None` = it was not read before; otherwise whether the table says so now, by which the lease is
    /// lost to this member too.
    async fn begin_again(&self, generation: u64) -> Option<bool> {
        let (lease, version) = {
            let state = self.lock();
            let held = state.held.get(&generation)?;
            let Lease { stream, shard, parents, at, .. } = &held.lease;
            if !matches!(at, Position::After(_)) {
                return None;
            }
            (Lease::new(stream, shard, parents.clone(), Position::Oldest), held.version)
        };
        let change = &lease.to_json();
        let swapped = self.store.swap(&self.space, Change::write(&lease.key(), version, change)).await;
        // Where the keeper has written at this moment, or the table does not answer, the next try does it.
        if !matches!(swapped, Ok(true)) {
            return Some(false);
        }
        self.core.remade.fetch_add(1, Ordering::Relaxed);
        let (stream, shard) = (&lease.stream, &lease.shard);
        tracing::error!(
            %stream,
            %shard,
            "the service does not take the place where the group was: the shard is read from its beginning, messages come again"
        );
        self.lock().round_asked = true;
        self.due.notify_one();
        Some(true)
    }

    /// Whether the service has dropped a shard: its stream is there, and does not list it any more.
    async fn is_expired(&self, place: &str) -> bool {
        let (stream, shard) = place.split_once('/').unwrap_or((place, ""));
        match self.core.shards(stream).await {
            // A stream that lists none at all is being made or removed, which tells nothing.
            Ok(shards) => !shards.is_empty() && shards.iter().all(|listed| listed.id != shard),
            Err(_) => false,
        }
    }

    /// The shard will never be read to its end. It ends here, or its children would wait for it until they are gone as well.
    fn expired(&self, generation: u64, place: &str) {
        self.core.expired.fetch_add(1, Ordering::Relaxed);
        let (stream, shard) = place.split_once('/').unwrap_or((place, ""));
        tracing::warn!(
            stream,
            shard,
            "the stream's retention ended before the shard was read to its end: what was left in it is gone"
        );
        self.take_in(generation, place, Page { records: Vec::new(), next: None, behind: 0 });
    }

    fn place(&self, generation: u64) -> Option<(String, String, Position)> {
        let state = self.lock();
        let lease = &state.held.get(&generation)?.lease;
        Some((lease.stream.clone(), lease.shard.clone(), lease.at.clone()))
    }

    /// Waits, unless it is over before, or this process publishes to the stream. Answers whether it has.
    async fn pause(&self, generation: u64, pause: Duration) -> bool {
        let woken = async {
            loop {
                let room = self.room.notified();
                let mut room = std::pin::pin!(room);
                room.as_mut().enable();
                {
                    let mut state = self.lock();
                    let stopped = state.stopped;
                    let Some(held) = state.held.get_mut(&generation).filter(|_| !stopped) else {
                        return false;
                    };
                    if std::mem::take(&mut held.nudged) {
                        return true;
                    }
                }
                room.await;
            }
        };
        tokio::time::timeout(pause, woken).await.unwrap_or(false)
    }

    /// Waits until more can be held; answers how many records. `None` = it is over.
    async fn room_of(&self, generation: u64) -> Option<usize> {
        loop {
            let room = self.room.notified();
            let mut room = std::pin::pin!(room);
            room.as_mut().enable();
            {
                let state = self.lock();
                let held = state.held.get(&generation)?;
                if state.stopped || held.ended {
                    return None;
                }
                let most = MOST_WAITING.max(state.prefetch);
                let room = most.saturating_sub(held.buffered()).min(held.places());
                if held.leaving.is_none() && room > 0 && held.bytes < MOST_BYTES {
                    return Some(room);
                }
            }
            // Also from time to time: what leaves may stay after all.
            let _ = tokio::time::timeout(self.core.config.heartbeat, room).await;
        }
    }

    /// Takes what was read. Answers whether the shard is still this member's.
    fn take_in(&self, generation: u64, place: &str, page: Page) -> bool {
        let now = self.core.clock.now();
        let (stream, _) = place.split_once('/').unwrap_or((place, ""));
        let read: Vec<(Sequence, Ready, bool)> = page
            .records
            .into_iter()
            .map(|record| {
                let sequence = Sequence::new(&record.sequence_number);
                let data = Bytes::from(record.data.into_inner());
                let size = data.len();
                let partition_key = record.partition_key.as_deref().unwrap_or_default();
                let number = sequence.as_str();
                let arrived = Arrived { stream, place, number, partition_key, data };
                let (message, told) = read(&arrived, &self.core.names, &self.subscription.ingest, now);
                (sequence, Ready { message, size }, told)
            })
            .collect();
        let mut state = self.lock();
        let doubted = state.is_in_doubt();
        for (sequence, ready, told) in read {
            state.take_in(generation, sequence, ready, told);
        }
        let doubts = !doubted && state.is_in_doubt();
        let Some(held) = state.held.get_mut(&generation) else { return false };
        held.behind = page.behind;
        held.ended = page.next.is_none();
        let finished = held.is_finished();
        drop(state);
        // The keeper looks whether the group takes it after all.
        if finished || doubts {
            self.due.notify_one();
        }
        self.arrived.notify_one();
        true
    }
}
