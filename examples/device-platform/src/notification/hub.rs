//! The newest events, and who has seen which.

use std::collections::VecDeque;
use std::fmt;
use std::str::FromStr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;
use uuid::Uuid;

/// The id of an event: which hub numbered it, and its number there.
///
/// The numbers begin anew in every process, so the hub's own id is part of it: a browser that comes back after a restart is not told
/// that it has seen everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EventId {
    hub: u32,
    number: u64,
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}-{}", self.hub, self.number)
    }
}

impl FromStr for EventId {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (hub, number) = text.split_once('-').ok_or(())?;
        let hub = u32::from_str_radix(hub, 16).map_err(|_| ())?;
        Ok(Self { hub, number: number.parse().map_err(|_| ())? })
    }
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Its id.
    pub id: EventId,
    /// What kind of thing: `reading`, `aggregate`, `alert`, `dead_letter`, or `reset`.
    pub name: Arc<str>,
    /// What exactly, as JSON.
    pub data: Arc<str>,
}

/// The newest events. Cheap to clone; all clones are one.
///
/// The memory is bounded: listeners have no queues of their own but a place in the common history. One that is too slow is told to
/// start again with a `reset`.
#[derive(Debug, Clone)]
pub struct Hub {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    id: u32,
    kept: usize,
    history: Mutex<History>,
    /// The number of the newest event. Its sender is dropped when the hub is closed.
    newest: watch::Receiver<u64>,
}

#[derive(Debug)]
struct History {
    events: VecDeque<Event>,
    newest: Option<watch::Sender<u64>>,
}

impl Hub {
    /// A hub that keeps so many events. Its id makes it different from those of other processes; any will do in a test.
    #[must_use]
    pub fn new(id: u32, kept: usize) -> Self {
        let (sender, newest) = watch::channel(0);
        let history = History { events: VecDeque::with_capacity(kept), newest: Some(sender) };
        Self { shared: Arc::new(Shared { id, kept: kept.max(1), history: Mutex::new(history), newest }) }
    }

    /// A hub whose id is made of the time and the process.
    #[must_use]
    pub fn for_process(kept: usize) -> Self {
        let seed = format!("{} {}", jiff::Timestamp::now(), std::process::id());
        let [a, b, c, d, ..] = Uuid::new_v5(&Uuid::NAMESPACE_OID, seed.as_bytes()).into_bytes();
        Self::new(u32::from_be_bytes([a, b, c, d]), kept)
    }

    /// Tells every listener. After [`Hub::close`] nobody listens, and nothing happens.
    pub fn publish(&self, name: &str, data: impl Into<Arc<str>>) {
        let mut history = self.shared.history();
        let Some(number) = history.newest.as_ref().map(|newest| *newest.borrow() + 1) else { return };
        if history.events.len() == self.shared.kept {
            history.events.pop_front();
        }
        let id = EventId { hub: self.shared.id, number };
        history.events.push_back(Event { id, name: name.into(), data: data.into() });
        if let Some(newest) = &history.newest {
            newest.send_replace(number);
        }
    }

    /// Listens from now on, or, where the last event that was seen is given, from the one after it.
    #[must_use]
    pub fn listen(&self, last_seen: Option<EventId>) -> Listener {
        let newest = self.shared.newest.clone();
        let place = match last_seen {
            None => Place::After(*newest.borrow()),
            Some(id) if id.hub == self.shared.id => Place::After(id.number),
            Some(_) => Place::Lost,
        };
        Listener { shared: self.shared.clone(), newest, place }
    }

    /// Ends all listeners once they have got what is kept: open streams would hold up a server that wants to stop.
    pub fn close(&self) {
        self.shared.history().newest = None;
    }
}

impl Shared {
    fn history(&self) -> MutexGuard<'_, History> {
        // Nothing that is done under the lock can leave the history half changed.
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A place in the history of a [`Hub`].
#[derive(Debug)]
pub struct Listener {
    shared: Arc<Shared>,
    newest: watch::Receiver<u64>,
    place: Place,
}

#[derive(Debug, Clone, Copy)]
enum Place {
    /// Everything up to this number was seen.
    After(u64),
    /// What was seen last is not known here.
    Lost,
}

impl Listener {
    /// Waits for the next event; none when the hub is closed and everything was heard.
    ///
    /// # Cancel safety
    /// An event that was not returned is returned by the next call.
    pub async fn next(&mut self) -> Option<Event> {
        loop {
            let newest = *self.newest.borrow_and_update();
            match self.place {
                // A number from the future cannot be from this hub, whatever its id says.
                Place::Lost => return Some(self.reset(newest)),
                Place::After(seen) if seen > newest => return Some(self.reset(newest)),
                Place::After(seen) if seen < newest => return Some(self.after(seen, newest)),
                Place::After(_) => self.newest.changed().await.ok()?,
            }
        }
    }

    fn after(&mut self, seen: u64, newest: u64) -> Event {
        let event = {
            let history = self.shared.history();
            let first = history.events.front().map_or(0, |event| event.id.number);
            let index = (seen + 1).checked_sub(first).and_then(|index| usize::try_from(index).ok());
            index.and_then(|index| history.events.get(index).cloned())
        };
        match event {
            Some(event) => {
                self.place = Place::After(event.id.number);
                event
            }
            None => self.reset(newest),
        }
    }

    /// Goes on after the newest event; what was missed is lost.
    fn reset(&mut self, newest: u64) -> Event {
        self.place = Place::After(newest);
        let id = EventId { hub: self.shared.id, number: newest };
        Event { id, name: "reset".into(), data: "{}".into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hub() -> Hub {
        let hub = Hub::new(7, 3);
        for number in 1..=5 {
            hub.publish("reading", number.to_string());
        }
        hub
    }

    fn seen(number: u64) -> Option<EventId> {
        Some(EventId { hub: 7, number })
    }

    async fn heard(hub: &Hub, last_seen: Option<EventId>) -> Vec<String> {
        let mut listener = hub.listen(last_seen);
        hub.close();
        let mut heard = Vec::new();
        while let Some(event) = listener.next().await {
            heard.push(format!("{}:{}", event.name, event.data));
        }
        heard
    }

    #[tokio::test]
    async fn who_comes_back_gets_what_it_missed() {
        assert_eq!(heard(&hub(), seen(3)).await, ["reading:4", "reading:5"]);
        assert_eq!(heard(&hub(), seen(2)).await, ["reading:3", "reading:4", "reading:5"]);
        assert_eq!(heard(&hub(), seen(5)).await, Vec::<String>::new());
    }

    #[tokio::test]
    async fn who_missed_more_than_is_kept_starts_again() {
        assert_eq!(heard(&hub(), seen(1)).await, ["reset:{}"]);
    }

    #[tokio::test]
    async fn who_comes_from_another_process_starts_again() {
        assert_eq!(heard(&hub(), Some(EventId { hub: 8, number: 4 })).await, ["reset:{}"]);
        assert_eq!(heard(&hub(), seen(6)).await, ["reset:{}"]);
    }

    #[tokio::test]
    async fn a_new_listener_hears_from_now_on() {
        let hub = hub();
        let mut listener = hub.listen(None);
        hub.publish("alert", "6");
        let event = listener.next().await.unwrap();
        assert_eq!((&*event.name, &*event.data, event.id), ("alert", "6", seen(6).unwrap()));
    }

    #[tokio::test]
    async fn a_slow_listener_costs_no_memory_and_is_told_to_start_again() {
        let hub = hub();
        let mut slow = hub.listen(None);
        for number in 6..=20 {
            hub.publish("reading", number.to_string());
        }
        assert_eq!(&*slow.next().await.unwrap().name, "reset");
        hub.publish("reading", "21");
        assert_eq!(&*slow.next().await.unwrap().data, "21");
        assert_eq!(hub.shared.history().events.len(), 3);
    }

    #[tokio::test]
    async fn a_waiting_listener_is_woken() {
        let hub = hub();
        let mut listener = hub.listen(None);
        let waiting = tokio::spawn(async move { listener.next().await });
        tokio::task::yield_now().await;
        hub.publish("reading", "6");
        assert_eq!(&*waiting.await.unwrap().unwrap().data, "6");
    }

    #[test]
    fn an_id_is_read_as_it_is_written() {
        let id = EventId { hub: 0xab, number: 12 };
        assert_eq!(id.to_string(), "000000ab-12");
        assert_eq!("000000ab-12".parse(), Ok(id));
        for text in ["", "12", "x-1", "ab-", "ab--1", "ab-1x"] {
            assert_eq!(text.parse::<EventId>(), Err(()), "{text}");
        }
    }
}
