//! What happens to messages, told to whoever wants to know: [`Observer`]s, spans and metrics.
//!
//! Observers get every life-cycle event of every message; journals, traces, metrics and the test kit are observers. With
//! none of them, and no tracing subscriber, nothing of this is left in the loop.

#[cfg(feature = "opentelemetry")]
mod metrics;
mod observer;
pub(crate) mod span;

#[cfg(feature = "opentelemetry")]
pub use self::metrics::Metrics;
pub use self::observer::{Event, EventKind, Observer, Observers};
