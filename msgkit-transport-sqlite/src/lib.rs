#![doc = include_str!("../README.md")]

mod config;
mod error;
mod member;
mod operate;
mod publisher;
mod schema;
mod store;
mod subscriber;
mod transport;
mod wire;
mod writer;

pub use self::config::{SqliteConfig, Synchronous};
pub use self::transport::{Sqlite, scheme};
