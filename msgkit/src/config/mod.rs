//! Configuration: TOML and environment, read strictly. Every unknown key is an error that names the nearest known one.
//!
//! [`Settings`] is what a file says; [`Service::from_config`](crate::Service::from_config) joins it with the handlers in
//! code. Precedence, weakest first: derive, `[policies]`, `[handlers.<name>]`, environment.

mod catalog;
pub mod duration;
mod environment;
mod ingest;
mod policy;
mod read;
mod settings;
#[cfg(test)]
mod tests;
mod text;

pub use self::catalog::CatalogSettings;
pub(crate) use self::read::{choice, parse_table, unknown_key};
pub use self::read::{from_table, nearest};
pub use self::settings::{HandlerSettings, Settings, TransportSettings};
