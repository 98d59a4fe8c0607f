//! What everything of one transport shares.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use msgkit::envelope::Clock;
use msgkit::transport::{Group, TransportError};
use tokio::sync::{Notify, OnceCell};
use tokio::time::Instant;

use crate::client::Account;
use crate::config::KinesisConfig;
use crate::error::closed;
use crate::lease::LeaseStore;
use crate::member::Member;
use crate::names::Names;

/// The only space of a table that nobody else sees, and that is gone with its reader.
pub(crate) const EPHEMERAL: &str = "ephemeral";

#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) account: Arc<Account>,
    pub(crate) names: Names,
    pub(crate) config: KinesisConfig,
    pub(crate) clock: Clock,
    pub(crate) store: Arc<dyn LeaseStore>,
    /// Streams that are known to be there, and when they are to be looked at again, where something could not be done.
    pub(crate) streams: Mutex<HashMap<String, Option<Instant>>>,
    /// Done once the table of leases is known to be that of these streams.
    pub(crate) placed: OnceCell<()>,
    pub(crate) members: Mutex<Vec<Weak<Member>>>,
    /// Settlements that came after their lease was lost.
    pub(crate) late: AtomicU64,
    /// Shards whose retention ended before they were read to their end.
    pub(crate) expired: AtomicU64,
    /// Streams that were deleted and made again since a group had read them.
    pub(crate) remade: AtomicU64,
    /// Entries and requests that were refused as too much at once.
    pub(crate) throttled: AtomicU64,
    pub(crate) closed: AtomicBool,
    pub(crate) closing: Notify,
}

impl Core {
    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(std::sync::atomic::Ordering::Acquire)
    }

    pub(crate) fn open(&self) -> Result<(), TransportError> {
        if self.is_closed() { Err(closed()) } else { Ok(()) }
    }

    /// The space of a group's leases.
    pub(crate) fn group_space(&self, group: &Group) -> String {
        format!("{}/group/{group}", self.names.prefix())
    }

    /// The space of the leases of one of a group's delay steps.
    pub(crate) fn retry_space(&self, group: &Group, step: u32) -> String {
        format!("{}/retry/{group}/{step}", self.names.prefix())
    }

    /// The space of a group's dead letters that are there no more.
    pub(crate) fn letter_space(&self, group: &Group) -> String {
        format!("{}/letters/{group}", self.names.prefix())
    }

    /// The space of the row that says in which account and region the streams are.
    pub(crate) fn place_space(&self) -> String {
        format!("{}/place", self.names.prefix())
    }

    /// The space in which each group has a row.
    pub(crate) fn groups_space(&self) -> String {
        format!("{}/groups", self.names.prefix())
    }

    /// This process has published to `stream`: its own readers need not wait until they look again.
    pub(crate) fn nudge(&self, stream: &str) {
        self.present().iter().for_each(|member| member.nudge(stream));
    }

    /// Why messages of a member may wait.
    pub(crate) fn trouble(&self) -> Option<String> {
        self.present().iter().find_map(|member| member.trouble())
    }

    fn present(&self) -> Vec<Arc<Member>> {
        let members = self.members.lock().unwrap_or_else(PoisonError::into_inner);
        members.iter().filter_map(Weak::upgrade).collect()
    }

    pub(crate) fn enlist(&self, member: &Arc<Member>) {
        let mut members = self.members.lock().unwrap_or_else(PoisonError::into_inner);
        members.retain(|member| member.strong_count() > 0);
        members.push(Arc::downgrade(member));
    }
}
