//! Configuration: TOML and environment, read strictly. Every unknown key is an error that names the nearest known one.

pub mod duration;
mod read;

pub use self::read::{from_table, nearest, scalar};
