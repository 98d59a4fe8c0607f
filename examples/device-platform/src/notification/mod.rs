//! `service_platform.notification`: tells browsers what happens, while it happens.
//!
//! [`Hub`] keeps the newest events and hands them to any number of listeners; [`stream`] serves them as server-sent events (WHATWG HTML,
//! section 9.2). A browser that lost its connection sends the id of the last event that it saw and gets what it missed, or, where that
//! is no longer kept, a `reset` event: it must ask for the whole picture again.

pub mod component;
mod hub;
mod sse;

pub use hub::{Event, EventId, Hub, Listener};
pub use sse::stream;
