//! Consuming allocates nothing of the framework's own for a message: at most two times for a whole batch, whatever its
//! types. One test, because the allocator counts for the whole process.

#![allow(clippy::unwrap_used)]

use std::alloc::System;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use msgkit::handler::{Handler, HandlerSpec};
use msgkit::{Context, Error, Handle, HandlerError, Message, Service};
use serde::{Deserialize, Serialize};
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};
use tokio::sync::Notify;

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// The most deliveries that a lane takes at once.
const BATCH: usize = 128;
const MESSAGES: usize = 20 * BATCH;

#[derive(Serialize, Deserialize, Message)]
#[message(name = "orders.created", topic = "orders")]
struct Created {
    id: u64,
}

#[derive(Serialize, Deserialize, Message)]
#[message(name = "orders.changed", topic = "orders")]
struct Changed {
    id: u64,
}

struct Count {
    types: usize,
    lanes: usize,
    left: Arc<AtomicUsize>,
    done: Arc<Notify>,
}

impl Count {
    fn handled(&self) {
        if self.left.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.done.notify_one();
        }
    }
}

impl Handle<Created> for Count {
    async fn handle(&self, _: Created, _: &Context) -> Result<(), HandlerError> {
        self.handled();
        Ok(())
    }
}

impl Handle<Changed> for Count {
    async fn handle(&self, _: Changed, _: &Context) -> Result<(), HandlerError> {
        self.handled();
        Ok(())
    }
}

impl Handler for Count {
    fn spec(self: Arc<Self>) -> Result<HandlerSpec, Error> {
        let spec =
            HandlerSpec::new("count", "count")?.concurrency(self.lanes).handles::<Created, _, _, _>(&self);
        Ok(if self.types == 1 { spec } else { spec.handles::<Changed, _, _, _>(&self) })
    }
}

/// How often it was allocated while `messages` waiting messages were handled.
fn allocations(types: usize, lanes: usize, messages: usize) -> usize {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (left, done) = (Arc::new(AtomicUsize::new(messages)), Arc::new(Notify::new()));
    let count = Count { types, lanes, left: left.clone(), done: done.clone() };
    let running = runtime.block_on(Service::new("allocations").handler(count).start()).unwrap();
    let publisher = running.publisher();
    runtime.block_on(async {
        for at in 0..messages {
            let id = at as u64;
            if at % types == 0 {
                publisher.publish(&Created { id }).await.unwrap();
            } else {
                publisher.publish(&Changed { id }).await.unwrap();
            }
        }
    });
    assert_eq!(left.load(Ordering::SeqCst), messages, "handled before the count began");
    let taken = || {
        let stats = ALLOCATOR.stats();
        stats.allocations + stats.reallocations
    };
    let before = taken();
    runtime.block_on(done.notified());
    let counted = taken() - before;
    runtime.block_on(running.drain()).unwrap();
    counted
}

#[test]
fn consuming_allocates_at_most_twice_for_a_batch() {
    for types in [1, 2] {
        for lanes in [1, 4] {
            // The difference: what happens once, as the first growth of a buffer, is in both.
            let once = allocations(types, lanes, MESSAGES);
            let twice = allocations(types, lanes, 2 * MESSAGES);
            let most = 2 * MESSAGES / BATCH;
            let steady = twice.saturating_sub(once);
            assert!(steady <= most, "{types} types, {lanes} lanes: {steady} allocations, at most {most}");
        }
    }
}
