//! msgkit: operable, configurable, loss-proof messaging.

mod error;
mod message;
mod text;

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
