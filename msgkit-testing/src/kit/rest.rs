//! Waiting until nothing is left to do, without a guess at how long that takes.

use std::pin::pin;
use std::time::{Duration, Instant};

use msgkit::memory::Memory;
use msgkit::service::Running;
use msgkit::transport::{Operate, Transport};
use msgkit::{Envelope, Error, ErrorKind, Pattern};
use tokio::runtime::{Handle, RuntimeFlavor};

use super::journal::Journal;
use super::{Place, TestKit};

/// How often tasks may run before it is looked whether anything is left: they only need to be polled.
const POLLS: usize = 32;
/// The longest step in which virtual time goes on while a handler runs.
const LONGEST_STEP: Duration = Duration::from_secs(60);
/// How long a handler at the brink of its timeout is left to whatever it waits for, in real time, and for how many turns at least: a
/// machine that stands still takes one of them.
const AT_THE_BRINK: Duration = Duration::from_secs(2);
const TURNS: u32 = 200;

/// Pauses the runtime's time, where the test has not done so.
pub(super) fn pause_time() -> Result<(), Error> {
    if Handle::current().runtime_flavor() != RuntimeFlavor::CurrentThread {
        return Err(Error::new(
            ErrorKind::Refused,
            "a test kit needs the runtime of one thread, because its time is virtual: write `#[tokio::test]` without \
             `flavor`, or run the test against a broker with `TestKit::at`",
        ));
    }
    let before = tokio::time::Instant::now();
    std::thread::sleep(Duration::from_millis(2));
    if tokio::time::Instant::now() != before {
        tokio::time::pause();
    }
    Ok(())
}

async fn poll_all() {
    for _ in 0..POLLS {
        tokio::task::yield_now().await;
    }
}

/// Until nothing waits, is in hand or is kept back.
pub(super) async fn in_memory(kit: &TestKit, brokers: impl Iterator<Item = &Memory> + Clone) {
    let begun = Instant::now();
    let mut pace = Pace::default();
    loop {
        poll_all().await;
        let left = left(brokers.clone()).await;
        let at_work = !kit.journal.at_work().is_empty();
        if !at_work && left.is_empty() {
            return;
        }
        assert!(begun.elapsed() < kit.patience, "{}", restless(kit, &left));
        if at_work {
            pace.go_on(kit).await;
        } else {
            // Time jumps to what is due next: a delayed retry, a key that holds, a breaker.
            tokio::select! {
                () = kit.journal.progress.notified() => {}
                () = tokio::time::sleep(Duration::from_secs(3600)) => {}
            }
        }
    }
}

/// What each group has left, in words.
async fn left(brokers: impl Iterator<Item = &Memory>) -> Vec<String> {
    let mut left = Vec::new();
    for memory in brokers {
        for status in memory.groups().await.unwrap_or_default() {
            let in_hand = status.in_hand.unwrap_or_default();
            if status.waiting + status.delayed + in_hand > 0 {
                left.push(format!(
                    "group `{}`: {} wait, {in_hand} in hand, {} are due later",
                    status.group, status.waiting, status.delayed
                ));
            }
        }
    }
    left
}

fn restless(kit: &TestKit, left: &[String]) -> String {
    let mut text = format!("the service has not come to rest within {:?}", kit.patience);
    for at_work in kit.journal.at_work() {
        text.push_str(&format!("; handler `{}` works on message {}", at_work.handler, at_work.message));
    }
    for group in left {
        text.push_str("; ");
        text.push_str(group);
    }
    text.push_str("; a flow that feeds itself never does: publish less, or use `advance`");
    text
}

/// Virtual time while handlers run: longer steps the longer nothing happens, up to the brink of their timeouts, where
/// they get real time for whatever they wait for.
struct Pace {
    step: Duration,
    told: u64,
    /// Since when, and for how many turns.
    at_the_brink: Option<(Instant, u32)>,
}

impl Default for Pace {
    fn default() -> Self {
        Self { step: Duration::from_millis(1), told: 0, at_the_brink: None }
    }
}

impl Pace {
    async fn go_on(&mut self, kit: &TestKit) {
        // Real time for what is real.
        let _ = tokio::task::spawn_blocking(|| std::thread::sleep(Duration::from_millis(1))).await;
        poll_all().await;
        let told = kit.journal.told();
        if told != self.told {
            (self.told, self.step, self.at_the_brink) = (told, Duration::from_millis(1), None);
            return;
        }
        let now = tokio::time::Instant::now();
        let brink = kit.journal.at_work().into_iter().map(|at_work| {
            let handlers = kit.report.handlers.iter();
            let timeout = handlers
                .filter(|handler| handler.handler == at_work.handler)
                .map(|handler| handler.timeout)
                .min();
            at_work.since + timeout.unwrap_or(LONGEST_STEP) - Duration::from_millis(1)
        });
        let to_brink = brink.min().map_or(self.step, |brink| brink.saturating_duration_since(now));
        let step = self.step.min(to_brink);
        if step.is_zero() {
            let (since, turns) = self.at_the_brink.get_or_insert_with(|| (Instant::now(), 0));
            *turns += 1;
            if *turns < TURNS || since.elapsed() < AT_THE_BRINK.min(kit.patience / 2) {
                return;
            }
            // Nothing came: whatever it waits for never comes.
            tokio::time::advance(Duration::from_millis(2)).await;
            return;
        }
        tokio::time::advance(step).await;
        self.step = (self.step * 2).min(LONGEST_STEP);
    }
}

/// Drains `running`; virtual time goes on as it does in [`in_memory`].
pub(super) async fn drain(kit: &TestKit, running: Running) -> Result<(), Error> {
    let mut draining = pin!(running.drain());
    if matches!(kit.place, Place::Broker(_)) {
        return draining.await;
    }
    let mut pace = Pace::default();
    loop {
        let at_work = !kit.journal.at_work().is_empty();
        let going_on = async {
            if at_work {
                pace.go_on(kit).await;
            } else {
                kit.journal.progress.notified().await;
            }
        };
        tokio::select! {
            biased;
            drained = &mut draining => return drained,
            () = going_on => {}
        }
    }
}

/// Lets virtual time pass; handlers that run are not spared their timeouts.
pub(super) async fn pass(journal: &Journal, time: Duration) {
    let until = tokio::time::Instant::now() + time;
    loop {
        poll_all().await;
        let left = until.saturating_duration_since(tokio::time::Instant::now());
        if left.is_zero() {
            return;
        }
        if journal.at_work().is_empty() {
            tokio::select! {
                () = journal.progress.notified() => {}
                () = tokio::time::sleep_until(until) => {}
            }
        } else {
            let _ = tokio::task::spawn_blocking(|| std::thread::sleep(Duration::from_millis(1))).await;
            let step = (left / 16).max(Duration::from_millis(1)).min(left);
            tokio::time::advance(step).await;
        }
    }
}

/// Until every message that was published is settled by everybody who takes it.
pub(super) async fn at_broker(kit: &TestKit, transport: &dyn Transport, takes: &[Vec<Pattern>]) {
    let takers = |envelope: &Envelope| {
        takes
            .iter()
            .filter(|patterns| patterns.iter().any(|pattern| pattern.matches(envelope.topic())))
            .count()
    };
    let begun = Instant::now();
    loop {
        let told = kit.journal.told();
        let busy = kit.journal.outstanding(takers) > 0 || !kit.journal.at_work().is_empty();
        let left = if busy { Vec::new() } else { left_at(transport, kit).await };
        if !busy && left.is_empty() && kit.journal.told() == told {
            return;
        }
        assert!(begun.elapsed() < kit.patience, "{}", restless(kit, &left));
        let _ = tokio::time::timeout(Duration::from_millis(20), kit.journal.progress.notified()).await;
    }
}

/// What this service's groups have left, where the broker tells.
async fn left_at(transport: &dyn Transport, kit: &TestKit) -> Vec<String> {
    let Some(operate) = transport.operate() else { return Vec::new() };
    let groups = operate.groups().await.unwrap_or_default();
    let ours =
        |group: &str| kit.report.handlers.iter().any(|handler| handler.group.as_deref() == Some(group));
    groups
        .iter()
        .filter(|status| ours(status.group.as_str()))
        .filter(|status| status.waiting + status.delayed + status.in_hand.unwrap_or_default() > 0)
        .map(|status| {
            let in_hand = status.in_hand.unwrap_or_default();
            let (group, waiting, delayed) = (&status.group, status.waiting, status.delayed);
            format!("group `{group}`: {waiting} wait, {in_hand} are in hand, {delayed} are due later")
        })
        .collect()
}
