//! `data_core.data_api`: the platform's memory, and the only component that touches it.
//!
//! [`Store`] keeps readings, aggregates, alerts, traces and dead letters in one SQLite file. Writing is idempotent on the id of what is
//! written, so a message that is delivered twice is stored once; what belongs together is written in one transaction. Queries take the
//! message that asks and give the message that answers.

pub mod component;
mod error;
mod rows;
mod store;

pub use error::StoreError;
pub use store::{Recorded, Store};
