//! The frameworks that are measured, one file each.
//!
//! Instructions and time are taken from a binary of each subject's own: what the optimizer makes of one must not depend on
//! what else is in its binary.

use crate::{
    Scenario,
    drive::{Around, drive},
};

pub mod msgkit;
pub mod ruststream;

/// A framework by name.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    /// How the command line and the report call it.
    pub name: &'static str,
    /// Runs a scenario over a number of messages, see [`drive`].
    pub run: fn(Scenario, u64, Around<'_>) -> anyhow::Result<()>,
}

/// This project.
pub const MSGKIT: Entry = Entry { name: "msgkit", run: drive::<msgkit::Msgkit> };
/// The framework that everything is compared with.
pub const PEER: Entry = Entry { name: "ruststream", run: drive::<ruststream::Ruststream> };

/// Every framework: those measured against the peer, then the peer.
pub const ALL: &[Entry] = &[MSGKIT, PEER];
