//! Retry copies that a policy with more delay steps has left behind.
//!
//! Where the core keeps delays, each step of the policy is a place of its own. A policy that is changed to fewer steps, or the
//! last member of an older version that goes, leaves copies where no step of the present policy looks. They are read all the
//! same: each goes on to the group when it is due.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;

use super::belt::Belt;
use super::running::{fetch, guarded};
use super::source::Beginning;
use super::source::Source;
use crate::error::Chain;
use crate::transport::{Destination, Subscriber as _, Transport as _};

/// How many steps beyond the policy's own are looked at.
const BEYOND: usize = 8;
/// The time between two looks: members of an older version may write there for as long as a roll-out takes.
const PAUSE: Duration = Duration::from_secs(300);

/// Looks again and again for steps beyond those of the plan in which something lies, and reads them until the handler drains.
pub(crate) async fn read(
    beginning: Beginning,
    origin: usize,
    belt: Arc<Belt>,
    lanes: Arc<watch::Sender<()>>,
) {
    let mut control = beginning.control.clone();
    let mut readers = JoinSet::new();
    let mut next: Vec<u32> = (beginning.plan.last_step() + 1..).take(BEYOND).collect();
    loop {
        let looking = async {
            for step in std::mem::take(&mut next) {
                match begin(&beginning, origin, step).await {
                    Some(source) => {
                        let fetching = fetch(source, belt.clone(), lanes.clone());
                        readers.spawn(guarded(fetching, beginning.plan.clone(), beginning.health.clone()));
                    }
                    None => next.push(step),
                }
            }
        };
        tokio::select! {
            biased;
            () = control.draining() => break,
            () = looking => {}
        }
        tokio::select! {
            biased;
            () = control.draining() => break,
            () = tokio::time::sleep(PAUSE) => {}
        }
    }
    // Nobody waits for this one; the readers wait for the lanes themselves.
    drop(lanes);
    while readers.join_next().await.is_some() {}
}

/// A subscription to `step`, where something lies there.
async fn begin(beginning: &Beginning, origin: usize, step: u32) -> Option<Source> {
    let plan = &beginning.plan;
    let from = &plan.origins[origin].from;
    let place = Destination::Retry { group: plan.group.clone(), step, delay: Duration::ZERO };
    let depth = match from.transport.operate()?.depth(&place).await {
        Ok(depth) => depth?,
        Err(error) => {
            tracing::debug!(handler = %plan.identity.handler, destination = %place, error = %Chain(&error), "not told");
            return None;
        }
    };
    if depth == 0 {
        return None;
    }
    let subscription = plan.retry_subscription(step);
    match from.transport.subscribe(&subscription).await {
        Ok(deliveries) => {
            tracing::info!(
                handler = %plan.identity.handler, destination = %place, depth,
                "a policy with more delay steps has left copies behind; they are read"
            );
            Some(beginning.source(origin, subscription, deliveries))
        }
        Err(error) => {
            tracing::warn!(
                handler = %plan.identity.handler, destination = %place, depth, error = %Chain(&error),
                "a policy with more delay steps has left copies behind, which cannot be read yet"
            );
            None
        }
    }
}
