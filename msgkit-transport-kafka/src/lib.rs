#![doc = include_str!("../README.md")]

mod client;
mod cluster;
mod config;
mod error;
mod groups;
mod look;
mod names;
mod operate;
mod publisher;
mod settings;
mod starts;
mod subscriber;
#[cfg(test)]
mod testing;
mod threads;
mod transport;
mod wire;

pub use self::config::{Compression, DestinationRule, KafkaConfig, Sasl, Unkeyed};
pub use self::transport::{Kafka, scheme};
