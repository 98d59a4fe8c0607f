//! The frameworks that are measured, one file each.

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

/// The framework that everything is compared with.
pub const PEER: Entry = Entry { name: "ruststream", run: drive::<ruststream::Ruststream> };

/// Every framework: those measured against the peer, then the peer.
pub const ALL: &[Entry] = &[Entry { name: "msgkit", run: drive::<msgkit::Msgkit> }, PEER];
