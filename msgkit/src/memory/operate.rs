//! What operators can ask of a memory broker.

use std::sync::PoisonError;

use async_trait::async_trait;

use super::Memory;
use super::broker::Subscribed;
use crate::envelope::Envelope;
use crate::transport::{
    Destination, Group, GroupStatus, Incoming, Operate, Outgoing, Peeked, Publisher, TransportError,
    TransportErrorKind,
};

fn number(position: &str) -> Result<u64, TransportError> {
    position.parse().map_err(|_| {
        TransportError::new(
            TransportErrorKind::Invalid,
            format!("`{position:.40}` is no position; use one that was listed"),
        )
    })
}

impl Memory {
    fn letter(&self, group: &Group, position: &str) -> Result<(u64, Envelope), TransportError> {
        let wanted = number(position)?;
        let dead = self.broker.dead.lock().unwrap_or_else(PoisonError::into_inner);
        dead.get(group)
            .and_then(|letters| letters.iter().find(|(number, _)| *number == wanted))
            .cloned()
            .ok_or_else(|| {
                TransportError::new(
                    TransportErrorKind::Invalid,
                    format!(
                        "group `{group}` has no dead letter at {position}; it may have been replayed already"
                    ),
                )
            })
    }

    fn forget_letter(&self, group: &Group, number: u64) {
        let mut dead = self.broker.dead.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(letters) = dead.get_mut(group) {
            letters.retain(|(other, _)| *other != number);
        }
    }
}

#[async_trait]
impl Operate for Memory {
    async fn groups(&self) -> Result<Vec<GroupStatus>, TransportError> {
        let now = self.broker.clock.now();
        let queues = self.broker.read();
        let status = |(group, subscribed): (&Group, &Subscribed)| {
            let counts = subscribed.queue.counts();
            let steps = queues.retries.iter().filter(|((of, _), _)| of == group);
            // A retry copy that its reader holds until it is due is still kept back.
            let kept = |counts: super::queue::Counts| counts.ready + counts.in_hand;
            let retries: usize = steps.map(|(_, queue)| kept(queue.counts())).sum();
            let mut status = GroupStatus::new(group.clone());
            status.waiting = counts.ready as u64;
            status.in_hand = Some(counts.in_hand as u64);
            status.delayed = (counts.delayed + retries) as u64;
            status.oldest_seconds = counts.oldest.map(|at| now.since(at).as_secs());
            status
        };
        Ok(queues.groups.iter().map(status).collect())
    }

    async fn peek(
        &self,
        group: &Group,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<Peeked>, TransportError> {
        let after = after.map(number).transpose()?;
        let known = self.broker.read().groups.get(group).map(|subscribed| subscribed.queue.clone());
        let queue = known.ok_or_else(|| {
            TransportError::new(TransportErrorKind::Invalid, format!("group `{group}` is not declared here"))
        })?;
        let peeked = queue.peek(after, limit);
        Ok(peeked.into_iter().map(|(position, message)| Peeked::new(message, position.to_string())).collect())
    }

    async fn dead_letters(
        &self,
        group: &Group,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<Peeked>, TransportError> {
        let after = after.map(number).transpose()?;
        let dead = self.broker.dead.lock().unwrap_or_else(PoisonError::into_inner);
        let letters = dead.get(group).into_iter().flatten();
        Ok(letters
            .filter(|(number, _)| after.is_none_or(|after| *number > after))
            .take(limit)
            .map(|(number, envelope)| Peeked::new(Incoming::Envelope(envelope.clone()), number.to_string()))
            .collect())
    }

    async fn replay(&self, group: &Group, position: &str) -> Result<(), TransportError> {
        let (number, envelope) = self.letter(group, position)?;
        if !self.broker.read().groups.contains_key(group) {
            return Err(TransportError::new(
                TransportErrorKind::Invalid,
                format!(
                    "group `{group}` is not declared here; its dead letter goes back by `Running::replay`"
                ),
            ));
        }
        let to = Destination::Retry { group: group.clone(), step: 1, delay: std::time::Duration::ZERO };
        self.publish(vec![Outgoing::new(to, envelope.replayed())]).await.map_err(|error| {
            TransportError::new(
                error.kind(),
                "the dead letter could not be published again; it stays where it is",
            )
            .with_source(error)
        })?;
        self.forget_letter(group, number);
        Ok(())
    }

    async fn remove_dead_letter(&self, group: &Group, position: &str) -> Result<(), TransportError> {
        let (number, _) = self.letter(group, position)?;
        self.forget_letter(group, number);
        Ok(())
    }

    async fn depth(&self, destination: &Destination) -> Result<Option<u64>, TransportError> {
        Ok(match destination {
            Destination::Topic { .. } => None,
            Destination::Retry { group, step, .. } => {
                let queues = self.broker.read();
                match queues.retries.get(&(group.clone(), *step)) {
                    Some(queue) => Some(queue.counts().ready as u64),
                    None => {
                        queues.groups.get(group).map(|subscribed| subscribed.queue.counts().delayed as u64)
                    }
                }
            }
            Destination::DeadLetter(group) => {
                let dead = self.broker.dead.lock().unwrap_or_else(PoisonError::into_inner);
                Some(dead.get(group).map_or(0, std::collections::VecDeque::len) as u64)
            }
        })
    }
}
