#![doc = include_str!("../README.md")]

mod client;
mod config;
mod connections;
mod core;
mod error;
mod filter;
mod names;
mod operate;
mod places;
mod publisher;
mod subscriber;
#[cfg(test)]
mod testing;
mod transport;
mod wire;

pub use self::config::PubsubConfig;
pub use self::transport::{Pubsub, scheme};
