//! What a connection is to be: what it dials, what its session is to be subscribed to, and to what no more.

use std::collections::BTreeSet;

use super::{EPHEMERAL_EXPIRY, KEPT, Link, Role, keeper};
use crate::driver::{Dial, Filter, LastWill};
use crate::error::Failure;
use crate::slots::{self, Lane, Mark};
use crate::subscriber::Filters;

impl Link {
    /// What to dial, and what its session must not be subscribed to any more; `None` where there is nothing left to do.
    pub(super) async fn prepare(&self) -> Result<Option<(Dial, Vec<String>)>, Failure> {
        let membership = &self.membership;
        let dial = membership.dial();
        match &self.role {
            Role::Alone { client_id } => {
                let first = self.lock().slot.replace(0).is_none();
                // A second connection takes the session up again; 3.1.1 has none that ends by itself.
                let clean = first || membership.config.version == crate::config::Version::V311;
                let expiry = membership.config.session_expiry.min(EPHEMERAL_EXPIRY);
                Ok(Some((Dial { client_id: client_id.clone(), clean, expiry, ..dial }, Vec::new())))
            }
            Role::Member => {
                let before = self.lock().slot;
                let Lane { slots, keeper, patterns } = membership.survey().await?;
                let slot = slots::choose(&slots, &membership.owner, before);
                if before.is_some_and(|before| before != slot) {
                    membership.inbox.gone(self.id);
                }
                let known = slots.get(&slot).map(|mark| mark.filters.as_slice()).unwrap_or_default();
                // Only behind a keeper's back a plain subscription is given up; where there is none, that is seen to once this
                // stands. (The mark of who was killed tells of its first subscription, which may have been given up since.)
                let kept = keeper.as_ref().is_some_and(|mark| {
                    mark.keeps(&membership.filters.plain)
                        && !membership.keeps_no_more(mark)
                        && mark.owner != membership.owner
                });
                let plain = slots.get(&slot).is_some_and(Mark::is_plain) && membership.config.keeper && !kept;
                let sharing = slots::are_others(&slots, slot) && !plain;
                let stale = membership.filters.stale(sharing, known);
                {
                    let mut control = self.lock();
                    control.slot = Some(slot);
                    control.slots = slots;
                    control.kept = keeper;
                    control.written = patterns;
                    control.sharing = sharing;
                }
                membership.hold(self.id, slot);
                let mark = membership.mark("", membership.filters.those(sharing));
                let will = LastWill::mark(membership.place(slot), mark.write());
                let client_id = membership.client_id(slot);
                Ok(Some((Dial { client_id, will: Some(will), ..dial }, stale)))
            }
            Role::Keeper => {
                let Lane { keeper, .. } = membership.survey().await?;
                if keeper.as_ref().is_some_and(|mark| !membership.is_free(mark)) {
                    return Ok(None);
                }
                membership.begin_keeping();
                let member = membership.member_that_stands();
                self.lock().keeping.begin_beside(member);
                let plain = &membership.filters.plain;
                let known = keeper.map(|mark| mark.filters).unwrap_or_default();
                let stale = known.into_iter().filter(|filter| !plain.contains(filter)).collect();
                let will = LastWill::mark(membership.keeper_place(), Mark::vacant(plain).write());
                // What it drops it drops fast; what it hands out waits for its turn.
                let receive = dial.receive.max(KEPT);
                Ok(Some((
                    Dial { client_id: membership.keeper_id(), will: Some(will), receive, ..dial },
                    stale,
                )))
            }
            Role::Heir { slot, mark } => {
                let Lane { slots, patterns, .. } = membership.survey().await?;
                if slots.get(slot).is_none_or(|now| !membership.is_free(now)) {
                    return Ok(None);
                }
                {
                    let mut control = self.lock();
                    (control.slot, control.written) = (Some(*slot), patterns);
                }
                membership.hold(self.id, *slot);
                let left = membership.mark("", &mark.filters);
                let will = LastWill::mark(membership.place(*slot), left.write());
                let client_id = membership.client_id(*slot);
                let Filters { plain, shared, .. } = &membership.filters;
                let all = mark.filters.iter().chain(plain).chain(shared).cloned().collect::<BTreeSet<_>>();
                Ok(Some((Dial { client_id, will: Some(will), ..dial }, all.into_iter().collect())))
            }
        }
    }

    /// Whether it wants more of its session than what lies there.
    pub(super) const fn subscribes(&self) -> bool {
        !matches!(self.role, Role::Heir { .. })
    }

    /// Takes back what the session is not to be subscribed to, once the broker has granted what it is to be. In between a
    /// message comes twice rather than not at all, and what is refused leaves the session what it had.
    pub(super) fn take_back(&self) {
        // Held until all is asked for: what is wanted changes, and is subscribed to, under it as well.
        let mut control = self.lock();
        let mut stale = control.stale.pop_front().unwrap_or_default();
        if matches!(self.role, Role::Member) {
            // It may have been asked for again meanwhile.
            let wanted = self.membership.filters.those(control.sharing);
            stale.retain(|filter| !wanted.contains(filter));
        }
        for filter in stale {
            drop(self.membership.inbox.ask(self.id, &filter));
        }
    }

    /// The filters of the subscription, and that of the marks.
    pub(super) fn wanted(&self, first: bool) -> Vec<Filter> {
        let membership = &self.membership;
        if let Role::Keeper = &self.role {
            return keeper::wanted(membership);
        }
        let retained = first && membership.config.retained && matches!(self.role, Role::Alone { .. });
        let sharing = self.lock().sharing;
        let mut wanted: Vec<Filter> = membership
            .filters
            .those(sharing)
            .iter()
            .map(|name| Filter { name: name.clone(), confirmed: true, retained })
            .collect();
        if let Some(marks) = membership.marks() {
            wanted.push(Filter { name: marks, confirmed: false, retained: true });
        }
        wanted
    }
}
