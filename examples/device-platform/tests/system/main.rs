//! The real program, as a user runs it: killed, restarted, one process or several. One test binary, as linking is slow.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod catalog;
mod components;
mod config;
mod kill;
mod mistakes;
mod platform;
mod position;
mod readme;
mod story;
