#![doc = include_str!("../README.md")]

mod client;
mod config;
mod core;
mod error;
mod fan_out;
mod group;
mod lease;
mod making;
mod marker;
mod member;
mod names;
mod operate;
mod position;
mod publisher;
mod streams;
mod subscriber;
mod transport;
mod wire;

pub use self::config::{DestinationRule, KinesisConfig, Secret, Unkeyed};
#[cfg(feature = "dynamodb")]
pub use self::lease::DynamoDbLeases;
#[cfg(feature = "sqlite")]
pub use self::lease::SqliteLeases;
pub use self::lease::{Change, LeaseRow, LeaseStore, MemoryLeases};
pub use self::operate::ShardLag;
pub use self::transport::{Kinesis, scheme};
