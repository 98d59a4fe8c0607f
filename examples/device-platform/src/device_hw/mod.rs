//! `device.hw`: a real office, replayed.
//!
//! The data set holds 20,560 readings that sensors took in one office room over three periods of February 2015 (source, licence and
//! format in `data/README.md`). The three periods are replayed **as if they were three devices at once**, `office-a` to `office-c`;
//! their local times are read as UTC.
//!
//! [`dataset`] reads the files, [`Replay`] says which reading is due when, [`Position`] keeps over a restart how far it has come. The
//! component itself only waits and publishes.

pub mod dataset;
mod position;
mod replay;

pub use position::{Position, PositionError};
pub use replay::{Due, Replay, Speed, SpeedError};
