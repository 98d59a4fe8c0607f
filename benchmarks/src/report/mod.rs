//! Measuring every subject in every scenario, and what becomes of the figures.
//!
//! [`measure`] runs the other binaries and returns [`entry`]s; [`entry`] keeps them in the report file and prints the
//! table; [`gate`] holds the ratios of instructions under the committed limits; [`cold_build`] times a first build.

pub mod cold_build;
pub mod entry;
pub mod gate;
pub mod measure;
pub mod sqlite;
