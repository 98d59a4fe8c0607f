//! What a member does on the marks of its lane: shares, stops sharing, takes over what others have left.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use msgkit::Pattern;
use tokio::time::Instant;

use super::{Control, Link, Role, Said};
use crate::driver::{Client, Filter};
use crate::slots::{self, Mark};
use crate::wire::Parcel;

/// How long a new member waits for those that have everything to themselves to share it.
const SHARING: Duration = Duration::from_secs(3);

impl Link {
    /// Its own mark as it is to be.
    pub(super) fn held(&self, control: &Control) -> Mark {
        let mut filters = self.membership.filters.those(control.sharing).to_vec();
        let more = control.kept_on.iter().filter(|filter| !filters.contains(filter)).cloned();
        filters.extend(more.collect::<Vec<_>>());
        self.membership.mark(&self.membership.owner, &filters)
    }

    /// The broker goes on giving its session what `filter` matches.
    pub(super) fn keeps_on(&self, filter: String, client: &Client) {
        let mut control = self.lock();
        if let (Role::Member, Some(slot)) = (&self.role, control.slot)
            && control.kept_on.insert(filter)
            && !control.leaving
        {
            let held = self.held(&control);
            control.say(client, self.membership.place(slot), &held, Said::Held);
        }
    }

    /// Writes what the group takes, where it knows of more than is written. A mark goes with its session, and with who wrote
    /// it: its last will is as old as the connection.
    pub(super) fn write_patterns(&self, control: &mut Control, client: &Client) {
        let known = self.membership.patterns().clone();
        if let Some(place) = self.membership.patterns_place()
            && !known.is_subset(&control.written)
        {
            let text = Mark::vacant(&[]).taking(known.clone()).write();
            control.publish(client, Parcel::own(place, text, true), Said::Something);
            control.written = known;
        }
    }

    /// Somebody has written what the group takes; perhaps without what another has written at the same time.
    pub(super) fn patterns_written(&self, written: BTreeSet<Pattern>, client: &Client) {
        self.membership.learn(&written);
        let mut control = self.lock();
        control.written = written;
        if !control.leaving {
            self.write_patterns(&mut control, client);
        }
    }

    /// Its own mark stands. It begins once nobody gets everything any more beside it.
    pub(super) fn stands(self: &Arc<Self>, client: &Client) {
        let first = {
            let mut control = self.lock();
            // Only now: until the broker has confirmed what it is subscribed to now, it may share still.
            let others = control.slot.is_some_and(|slot| slots::are_others(&control.slots, slot));
            self.membership.set_sharing((control.sharing || others) && self.membership.config.keeper);
            !std::mem::replace(&mut control.stands, true)
        };
        self.look(client);
        if first {
            self.call_the_roll(client);
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
    pub(super) fn look(self: &Arc<Self>, client: &Client) {
        let membership = &self.membership;
        let known = self.lock().kept.clone();
        let no_keeper = known.as_ref().is_some_and(|mark| membership.keeps_no_more(mark));
        let mut control = self.lock();
        let Some(slot) = control.slot else { return };
        if !control.stands || control.leaving {
            return;
        }
        let sharing = slots::are_others(&control.slots, slot) || self.may_be_joined(&mut control, client);
        let vacant = known.is_none() || no_keeper;
        let keep = vacant && (known.is_some() || (sharing && membership.config.keeper));
        let kept = !membership.config.keeper
            || (!vacant && known.as_ref().is_some_and(|mark| mark.keeps(&membership.filters.plain)));
        // A plain subscription is given up once a keeper has one.
        let may = !sharing || (membership.set_sharing(membership.config.keeper) && kept);
        if sharing != control.sharing && may {
            control.sharing = sharing;
            let filter = |name: &String| Filter { name: name.clone(), confirmed: true, retained: false };
            let wanted: Vec<Filter> = membership.filters.those(sharing).iter().map(filter).collect();
            client.subscribe(&wanted);
            control.stale.push_back(membership.filters.those(!sharing).to_vec());
        }
        let others = || control.slots.iter().filter(|(other, _)| **other != slot);
        let settled = !others().any(|(_, mark)| mark.is_plain());
        let vacant: Vec<(u32, bool)> = others()
            .filter(|(_, mark)| membership.is_free(mark))
            .map(|(slot, mark)| (*slot, mark.is_plain()))
            .collect();
        drop(control);
        for (slot, plain) in vacant {
            self.inherit(slot, plain);
        }
        if keep {
            self.keep();
        }
        if settled {
            self.ready();
        }
    }

    /// Whether the last of the others has gone so lately that somebody may come in its place: who is restarted is back soon, and
    /// each change between everything and a share costs duplicates.
    fn may_be_joined(self: &Arc<Self>, control: &mut Control, client: &Client) -> bool {
        let wait = self.membership.config.takeover_after;
        let slot = control.slot;
        if !control.sharing || slot.is_some_and(|slot| slots::are_others(&control.slots, slot)) {
            control.left_alone = None;
            return false;
        }
        if let Some(since) = control.left_alone {
            return since.elapsed() < wait;
        }
        control.left_alone = Some(Instant::now());
        let (link, client, epoch) = (self.clone(), client.clone(), control.epoch);
        tokio::spawn(async move {
            tokio::select! {
                biased;
                () = link.membership.ended() => return,
                () = tokio::time::sleep(wait) => {}
            }
            let here = link.lock().epoch == epoch;
            if here {
                link.look(&client);
            }
        });
        true
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
                    control.say(client, self.membership.place(slot), &held, Said::Held);
                }
                return;
            }
            if known {
                return;
            }
        }
        self.look(client);
    }

    /// The keeper of the lane changed hands.
    pub(super) fn keeper_marked(self: &Arc<Self>, mark: Option<Mark>, client: &Client) {
        self.lock().kept = mark;
        self.look(client);
    }

    /// Whether another member has everything to itself still, and so misses nothing and will see to the keeper.
    fn waits_for_another(&self) -> bool {
        let control = self.lock();
        let is_free = |mark: &Mark| self.membership.is_free(mark);
        slots::another_keeps(&control.slots, control.slot, control.sharing, is_free)
    }

    /// Becomes the keeper, where nobody else does.
    fn keep(self: &Arc<Self>) {
        if !matches!(self.role, Role::Member) {
            return;
        }
        {
            let mut control = self.lock();
            let again = control.to_keep.is_some();
            control.to_keep = Some(again);
            if again {
                return;
            }
        }
        let link = self.clone();
        tokio::spawn(async move {
            let membership = &link.membership;
            // First who waits for it, because it gets everything beside the others until then.
            let mut wait = if link.lock().sharing { 0.5 + 0.5 * fastrand::f64() } else { 0.0 };
            loop {
                tokio::select! {
                    biased;
                    () = membership.ended() => break,
                    () = tokio::time::sleep(membership.config.takeover_after.mul_f64(wait)) => {}
                }
                wait = 0.5 + 0.5 * fastrand::f64();
                let (others, kept) = {
                    let mut control = link.lock();
                    control.to_keep = Some(false);
                    let others = control.slot.is_some_and(|slot| slots::are_others(&control.slots, slot));
                    (others, control.kept.clone())
                };
                let wanted = match &kept {
                    Some(mark) => membership.keeps_no_more(mark),
                    None => others && membership.config.keeper,
                };
                if !wanted {
                    let mut control = link.lock();
                    // What has changed since it looked may want one, and whoever saw that has left it to this task.
                    if control.to_keep == Some(true) {
                        continue;
                    }
                    control.to_keep = None;
                    break;
                }
                // Who has everything to itself beside the others gives it up for a keeper, and is quicker at it.
                if link.waits_for_another() {
                    continue;
                }
                if !membership.keeps() {
                    membership.clone().begin(Role::Keeper, None);
                }
            }
        });
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
                let mark = {
                    let mut control = link.lock();
                    let other = control.slots.get(&slot).filter(|_| control.slot != Some(slot));
                    let Some(mark) = other.filter(|mark| link.membership.is_free(mark)).cloned() else {
                        // With the look that decided it: who sees the slot become free later has to begin again.
                        control.inheriting.remove(&slot);
                        break;
                    };
                    mark
                };
                if !link.membership.holds(slot) {
                    link.membership.clone().begin(Role::Heir { slot, mark }, None);
                }
            }
        });
    }
}
