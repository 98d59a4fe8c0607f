#![doc = include_str!("../README.md")]

mod broker;
mod config;
mod connection;
mod error;
mod kept;
mod later;
mod operate;
mod publisher;
mod registry;
mod subscriber;
mod topology;
mod transport;
mod wire;

pub use self::config::{AmqpConfig, AttributePrefix, OnUnrouted, Sasl};
pub use self::transport::{Amqp, scheme};
