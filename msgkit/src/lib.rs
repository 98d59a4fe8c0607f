//! Operable, configurable, loss-proof messaging: one contract, any broker, nothing lost silently.
//!
//! Start at [`Service`], derive [`Message`] and [`Handler`], and read on by need. One concept a module; data flows down
//! this list:
//!
//! | module | what it holds |
//! |---|---|
//! | [`topic`] | where messages go: topics, patterns, namespaces |
//! | [`envelope`] | what travels with a payload; a CloudEvents 1.0 event, and its wire forms |
//! | [`codec`] | how payloads are written |
//! | [`transport`] | the contract with a broker |
//! | [`memory`] | the reference transport |
//! | [`policy`] | retries, order, timeouts, concurrency |
//! | [`handler`] | user code for message types |
//! | [`service`] | the runtime |
//! | [`catalog`] | who sends what to whom, known before it runs |
//! | [`config`] | TOML and environment |
//! | [`telemetry`] | what happens to messages, told to observers |

mod error;
mod message;
mod text;

pub mod catalog;
pub mod codec;
pub mod config;
pub mod envelope;
pub mod handler;
pub mod memory;
pub mod policy;
pub mod service;
pub mod telemetry;
pub mod topic;
pub mod transport;

pub use self::catalog::Catalog;
pub use self::envelope::{Clock, Envelope, MessageId, Timestamp};
pub use self::error::{BoxError, Chain, Error, ErrorKind};
pub use self::handler::{Context, Handle, Handler, HandlerError};
pub use self::message::{Message, envelope as envelope_of};
pub use self::policy::Policy;
pub use self::service::Service;
pub use self::text::Text;
pub use self::topic::{Namespace, NamespaceClass, Pattern, Topic, TopicTemplate};
pub use self::transport::{Group, Registry};
#[cfg(feature = "macros")]
pub use msgkit_macros::{Handler, Message};

/// The README's code blocks, compiled.
#[cfg(all(doctest, feature = "macros"))]
#[doc = include_str!("../../README.md")]
struct Readme;

/// The guide to operating, compiled.
#[cfg(doctest)]
#[doc = include_str!("../../docs/guides/operating.md")]
struct Operating;
