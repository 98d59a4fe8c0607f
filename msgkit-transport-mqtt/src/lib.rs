#![doc = include_str!("../README.md")]

mod config;
mod connection;
mod declare;
mod driver;
mod error;
mod inbox;
mod link;
mod names;
mod publisher;
mod sending;
mod slots;
mod subscriber;
mod transport;
mod wire;

pub use self::config::{Format, MqttConfig, OnUnrouted, Version, Will};
pub use self::transport::{Mqtt, scheme};
