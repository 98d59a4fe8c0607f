//! What operators ask. How much waits for a group is told by Cloud Monitoring alone, and what waits cannot be looked at without
//! being handed out; dead letters can, because nobody else reads them.
//!
//! Those are [looked through](look) one reader at a time.

mod look;

use std::time::Duration;

use async_trait::async_trait;
use google_cloud_pubsub::subscriber::handler::Handler;
use msgkit::Text;
use msgkit::transport::{
    Destination, Group, GroupStatus, Incoming, Operate, Outgoing, Peeked, Publisher as _, TransportError,
    TransportErrorKind,
};

use self::look::{Letter, Look};
use crate::error;
use crate::transport::Pubsub;

impl Pubsub {
    /// Takes the dead letter at `position` into the hand.
    async fn letter(
        &self,
        group: &Group,
        position: &str,
    ) -> Result<(Look, Incoming, Handler), TransportError> {
        let mut look = self.look(group).await?;
        match look.letters.iter().position(|letter| *letter.id == *position) {
            Some(at) => {
                let Letter { message, handler, .. } = look.letters.remove(at);
                Ok((look, message, handler))
            }
            None => {
                look.end(self).await;
                Err(error::invalid(format!(
                    "group `{group}` has no dead letter at `{position:.60}`; take a position from a listing"
                )))
            }
        }
    }
}

fn not_removed(position: &str) -> TransportError {
    TransportError::new(
        TransportErrorKind::Unavailable,
        format!("the dead letter at `{position:.60}` could not be removed; try again"),
    )
}

#[async_trait]
impl Operate for Pubsub {
    /// Every declared group. How much waits for it is not told: `waiting` is 0 for all of them.
    async fn groups(&self) -> Result<Vec<GroupStatus>, TransportError> {
        let core = self.core();
        core.open()?;
        let groups = core.entries().await?.into_keys().filter_map(|reader| reader.as_group());
        Ok(groups
            .map(|group| {
                let mut status = GroupStatus::new(group);
                status.broken_off = core.broken_off(&status.group);
                status
            })
            .collect())
    }

    async fn peek(&self, group: &Group, _: Option<&str>, _: usize) -> Result<Vec<Peeked>, TransportError> {
        Err(TransportError::new(
            TransportErrorKind::Unsupported,
            format!(
                "what waits for group `{group}` cannot be looked at: Pub/Sub would hand it out, and count that as a start"
            ),
        ))
    }

    async fn dead_letters(
        &self,
        group: &Group,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<Peeked>, TransportError> {
        let _alone = self.alone().await?;
        let from = |letters: &[Letter]| match after {
            None => Some(0),
            Some(after) => letters.iter().position(|letter| *letter.id == *after).map(|at| at + 1),
        };
        let look = self.look(group).await?;
        let from = from(&look.letters).unwrap_or(look.letters.len());
        let page = look.letters.iter().skip(from).take(limit);
        let page =
            page.map(|letter| Peeked::new(letter.message.clone(), Text::from(letter.id.clone()))).collect();
        look.end(self).await;
        Ok(page)
    }

    async fn replay(&self, group: &Group, position: &str) -> Result<(), TransportError> {
        // Where nothing is created there may be no entries; a retry topic that is missing is an error then.
        if self.core().config.create
            && !self.core().entries().await?.keys().any(|reader| reader.as_group().as_ref() == Some(group))
        {
            return Err(error::invalid(format!(
                "group `{group}` is not declared here, so nobody would handle what is published again; \
                 its dead letter goes back by `Running::replay`"
            )));
        }
        let _alone = self.alone().await?;
        let (look, message, handler) = self.letter(group, position).await?;
        let done = async {
            let Some(envelope) = message.envelope() else {
                return Err(error::invalid(format!(
                    "the dead letter at `{position:.60}` is no envelope and cannot be replayed"
                )));
            };
            let to = Destination::Retry { group: group.clone(), step: 1, delay: Duration::ZERO };
            let published = self.publish(vec![Outgoing::new(to, envelope.replayed())]).await;
            if let Some(rejected) = published.err().and_then(|error| error.into_rejected().pop()) {
                return Err(rejected.error);
            }
            if self.confirm(handler).await { Ok(()) } else { Err(not_removed(position)) }
        };
        let done = done.await;
        look.end(self).await;
        done
    }

    async fn remove_dead_letter(&self, group: &Group, position: &str) -> Result<(), TransportError> {
        let _alone = self.alone().await?;
        let (look, _, handler) = self.letter(group, position).await?;
        let removed = self.confirm(handler).await;
        look.end(self).await;
        if removed { Ok(()) } else { Err(not_removed(position)) }
    }

    /// Not told; but a delay step that is there may hold copies, and is one deep: who reads it does not leave them behind.
    async fn depth(&self, destination: &Destination) -> Result<Option<u64>, TransportError> {
        let Destination::Retry { group, step, .. } = destination else { return Ok(None) };
        let core = self.core();
        core.open()?;
        let step = core.names.only_subscription(&core.names.retry(group, *step)?)?;
        Ok(Some(u64::from(core.find(&step).await?.is_some())))
    }
}
