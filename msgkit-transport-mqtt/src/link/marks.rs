//! What a member does on the marks of its lane: shares, stops sharing, takes over what others have left.

use std::sync::Arc;
use std::time::Duration;

use super::{Control, Link, Role, Said};
use crate::driver::{Client, Filter};
use crate::slots::{self, Mark};

/// How long a new member waits for those that have everything to themselves to share it.
const SHARING: Duration = Duration::from_secs(3);

impl Link {
    /// Its own mark as it is to be.
    pub(super) fn held(&self, control: &Control) -> Mark {
        Mark::held(&self.membership.owner, self.membership.filters.those(control.sharing))
    }

    /// Its own mark stands. It begins once nobody gets everything any more beside it.
    pub(super) fn stands(self: &Arc<Self>, client: &Client) {
        let first = !std::mem::replace(&mut self.lock().stands, true);
        self.look(client);
        if first {
            let link = self.clone();
            tokio::spawn(async move {
                tokio::time::sleep(SHARING).await;
                if link.lock().stands {
                    link.ready();
                }
            });
        }
    }

    /// Does what the marks of the lane ask for: shares, or stops sharing, and takes over what others have left.
    fn look(self: &Arc<Self>, client: &Client) {
        let membership = &self.membership;
        let mut control = self.lock();
        let Some(slot) = control.slot else { return };
        if !control.stands || control.leaving {
            return;
        }
        let sharing = slots::are_others(&control.slots, slot);
        if sharing != control.sharing {
            control.sharing = sharing;
            let filter = |name: &String| Filter { name: name.clone(), confirmed: true, retained: false };
            let wanted: Vec<Filter> = membership.filters.those(sharing).iter().map(filter).collect();
            client.subscribe(&wanted);
            for name in membership.filters.those(!sharing) {
                drop(membership.inbox.ask(self.id, name));
            }
        }
        let others = || control.slots.iter().filter(|(other, _)| **other != slot);
        let settled = !others().any(|(_, mark)| mark.is_plain());
        let vacant: Vec<(u32, bool)> = others()
            .filter(|(_, mark)| mark.is_vacant())
            .map(|(slot, mark)| (*slot, mark.is_plain()))
            .collect();
        drop(control);
        for (slot, plain) in vacant {
            self.inherit(slot, plain);
        }
        if settled {
            self.ready();
        }
    }

    pub(super) fn ready(&self) {
        let started = {
            let mut control = self.lock();
            control.ready = true;
            control.started.take()
        };
        if let Some(started) = started {
            let _ = started.send(Ok(()));
        }
    }

    /// A slot of the lane changed hands.
    pub(super) fn marked(self: &Arc<Self>, slot: u32, mark: Option<Mark>, client: &Client) {
        {
            let mut control = self.lock();
            let known = control.slots.get(&slot) == mark.as_ref();
            let stands = mark.as_ref().is_some_and(|mark| mark.owner == self.membership.owner);
            match mark {
                Some(mark) => control.slots.insert(slot, mark),
                None => control.slots.remove(&slot),
            };
            if control.slot == Some(slot) {
                if control.stands && !control.leaving && !stands {
                    // The last word of an earlier connection, or of somebody who has lost it: this one stands.
                    let held = self.held(&control);
                    self.say(&mut control, client, slot, &held, Said::Held);
                }
                return;
            }
            if known {
                return;
            }
        }
        self.look(client);
    }

    /// Takes over a slot once nobody has held it for a while; at once where its session gets everything beside the others.
    fn inherit(self: &Arc<Self>, slot: u32, at_once: bool) {
        let membership = &self.membership;
        if !matches!(self.role, Role::Member) || membership.holds(slot) {
            return;
        }
        if !self.lock().inheriting.insert(slot) {
            return;
        }
        let (link, mut at_once) = (self.clone(), at_once);
        tokio::spawn(async move {
            // Tried again until somebody has it, this subscription or another.
            loop {
                let wait = if at_once { 0.1 * fastrand::f64() } else { 1.0 + fastrand::f64() };
                at_once = false;
                tokio::select! {
                    biased;
                    () = link.membership.ended() => break,
                    () = tokio::time::sleep(link.membership.config.takeover_after.mul_f64(wait)) => {}
                }
                let mark = link.lock().slots.get(&slot).filter(|mark| mark.is_vacant()).cloned();
                let Some(mark) = mark else { break };
                if !link.membership.holds(slot) {
                    link.membership.clone().begin(Role::Heir { slot, mark }, None);
                }
            }
            link.lock().inheriting.remove(&slot);
        });
    }
}
