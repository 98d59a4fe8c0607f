//! Messages in a directory of files: a complete small transport, the example of `docs/guides/transport-authors.md`.
//!
//! ```text
//! messages/
//!   lock  alive  last  new                 whose turn it is · who lives · the last number · a file being written
//!   groups/storage/patterns                what the group takes, a pattern a line
//!   groups/storage/ready/                  what waits:    <number>-<starts>.json
//!   groups/storage/in-hand/                what is held:  <number>-<starts, this one included>.json
//!   groups/storage/delayed/                what is kept:  <due>_<number>-<starts>.json
//!   groups/storage/dead/                   dead letters:  <number>-<starts>.json
//! ```
//!
//! Every step of a message's life is one `rename` or one `unlink`, so a process that dies leaves the message in one place
//! or the other. A message is a CloudEvents event in structured JSON: `cat` shows it, `ls` shows the queue.
//!
//! It is made for one process with any number of connections, on a file system of Unix that tells upper from lower case.
//! Several processes may share a directory, but what one of them had in hand when it died comes again only when none of
//! them is left and the next one opens it. Every reader polls, and every poll lists the directory: a queue of thousands
//! is slow. Take `msgkit-transport-sqlite` for work.

mod config;
mod error;
mod member;
mod operate;
mod publisher;
mod store;
mod subscriber;
mod transport;
mod turn;
mod wire;

pub use self::config::FilesConfig;
pub use self::store::recover;
pub use self::transport::{Files, scheme};

/// The guide's code must compile.
#[cfg(doctest)]
#[doc = include_str!("../../../docs/guides/transport-authors.md")]
mod guide {}
