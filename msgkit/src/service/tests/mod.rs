//! The service as a whole, on the memory transport and virtual time.

mod batches;
mod check;
mod edge;
mod failure;
mod faulty;
mod flow;
mod observed;
mod outage;
mod unit;

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::*;
use crate::codec::Json;
use crate::envelope::{DeadLetterKind, NativeHeaders, Timestamp};
use crate::memory::{MemoryConfig, MemoryDelay};
use crate::policy::{Delayed, OnFailure, Order};
use crate::transport::{Destination, Group, Operate as _};
use crate::{Handle, HandlerError};

#[derive(Debug, Clone, Serialize, Deserialize, PartialEq)]
struct Placed {
    id: u32,
    customer: String,
}

impl Message for Placed {
    type Codec = Json;
    const NAME: &'static str = "orders.placed";
    const TOPIC: &'static str = "orders.{customer}";
    fn topic(&self) -> Result<Topic, Error> {
        Self::template()?.render(&[&self.customer])
    }
    fn key(&self) -> Option<std::borrow::Cow<'_, str>> {
        Some(self.customer.as_str().into())
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Shipped {
    id: u32,
}

impl Message for Shipped {
    type Codec = Json;
    const NAME: &'static str = "orders.shipped";
    const TOPIC: &'static str = "shipping";
    fn topic(&self) -> Result<Topic, Error> {
        Self::template()?.render(&[])
    }
}

fn placed(id: u32) -> Placed {
    Placed { id, customer: "c1".to_owned() }
}

fn virtual_memory(config: MemoryConfig) -> (Memory, Clock) {
    let clock = Clock::virtual_from("2026-01-01T00:00:00Z".parse::<Timestamp>().unwrap());
    (Memory::with(config, clock), clock)
}

/// A service with one handler, all on `memory`.
async fn serve(memory: &Memory, clock: Clock, spec: HandlerSpec) -> Running {
    let service = Service::new("shop").clock(clock).transport("memory", memory.clone());
    service.spec(spec).start().await.unwrap()
}

async fn until(what: &str, mut done: impl FnMut() -> bool) {
    for _ in 0..20_000 {
        if done() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("never: {what}");
}

async fn letters(memory: &Memory, group: &str) -> Vec<crate::Envelope> {
    let letters = memory.dead_letters(&Group::new(group).unwrap(), None, 100).await.unwrap();
    letters.into_iter().map(|peeked| peeked.message.envelope().unwrap().clone()).collect()
}
