//! Dead letters published again, wherever they are kept.

use std::collections::BTreeSet;
use std::time::Duration;

use super::Running;
use super::plan::{Named, Origin, Plan};
use crate::envelope::Envelope;
use crate::error::{Error, ErrorKind};
use crate::text::Text;
use crate::transport::{Group, Operate, Outgoing, Publisher as _, TransportError};

/// How many dead letters are read at a time.
const PAGE: usize = 100;

impl Running {
    /// Publishes the dead letter that transport `kept_at` has of `group` at `position` again, to the handler that gave it up and
    /// to nobody else, then removes it.
    ///
    /// [`Operate::replay`] does so where a transport keeps the dead letters of its own groups. Where they are kept at another one
    /// (`[transports.x] dead_letters`), only the service knows the way back. A handler that `enabled = false` keeps from running is
    /// known as well: a process for operators disables them all.
    ///
    /// # Errors
    /// [`ErrorKind::Refused`] where no handler of this service has that group, or it has none of its own, or its dead letters are
    /// kept elsewhere;
    /// [`ErrorKind::Transport`] where there is no such dead letter, or a broker does not answer. The dead letter is there then
    /// still; where only its removal failed, it was published as well.
    ///
    /// # Cancel safety
    /// A call that is dropped leaves the dead letter where it is, or published and in both places.
    pub async fn replay(&self, kept_at: &str, group: &Group, position: &str) -> Result<(), Error> {
        let plan = self.plan_of(group).await?;
        if plan.spec.group.is_none() {
            return Err(Error::refused(format!(
                "handler `{}` has no group, and what is published for one alone would wait for nobody; publish the message anew",
                plan.identity.handler
            )));
        }
        let mut origins = plan.origins.iter().filter(|origin| origin.dead_letters.name == kept_at).peekable();
        let Some(origin) = origins.peek() else {
            let known: BTreeSet<&str> =
                plan.origins.iter().map(|origin| origin.dead_letters.name.as_str()).collect();
            let known: Vec<_> = known.into_iter().map(|name| format!("`{name}`")).collect();
            return Err(Error::refused(format!(
                "the dead letters of group `{group}` are kept at {}, not at `{kept_at}`",
                known.join(" and ")
            )));
        };
        let letters = &origin.dead_letters;
        let operate = letters
            .transport
            .operate()
            .ok_or_else(|| Error::refused(format!("transport `{}` cannot be looked into", letters.name)))?;
        let failed = |error: TransportError| {
            let text = format!("the dead letter at `{position:.90}` of group `{group}` stays at `{kept_at}`");
            Error::new(ErrorKind::Transport, text).with_source(error)
        };
        let origins: Vec<&Origin> = origins.collect();
        if let [origin] = &origins[..]
            && origin.from.name == kept_at
        {
            return operate.replay(group, position).await.map_err(failed);
        }
        let envelope = find(operate, group, position).await.map_err(failed)?;
        let to = self.way_back(&plan, &origins, &envelope)?;
        let copy = Outgoing::new(plan.retry_destination(Duration::ZERO), envelope.replayed());
        let published = to.transport.publish(vec![copy]).await;
        if let Some(rejected) = published.err().and_then(|error| error.into_rejected().pop()) {
            return Err(failed(rejected.error));
        }
        // Dying here leaves both, and the next replay makes a duplicate; the other way round it could be lost.
        operate.remove_dead_letter(group, position).await.map_err(|error| {
            let text = format!(
                "the dead letter at `{position:.90}` of group `{group}` was published again, and could not be removed from `{kept_at}`"
            );
            Error::new(ErrorKind::Transport, text).with_source(error)
        })
    }

    /// The transport that the message came from.
    fn way_back<'a>(
        &self,
        plan: &Plan,
        origins: &[&'a Origin],
        envelope: &Envelope,
    ) -> Result<&'a Named, Error> {
        if let [origin] = origins {
            return Ok(&origin.from);
        }
        let route = self.routes().of(envelope.topic());
        let origin = origins.iter().find(|origin| route.is_some_and(|route| route.name == origin.from.name));
        origin.map(|origin| &origin.from).ok_or_else(|| {
            Error::refused(format!(
                "handler `{}` receives from several transports, and no route of theirs leads to `{}`",
                plan.identity.handler,
                envelope.topic()
            ))
        })
    }
}

/// The dead letter at `position`.
async fn find(operate: &dyn Operate, group: &Group, position: &str) -> Result<Envelope, TransportError> {
    use crate::transport::TransportErrorKind::Invalid;
    let mut after: Option<Text> = None;
    loop {
        let page = operate.dead_letters(group, after.as_deref(), PAGE).await?;
        after = page.last().map(|letter| letter.position.clone());
        if let Some(letter) = page.into_iter().find(|letter| letter.position == position) {
            return letter
                .message
                .envelope()
                .cloned()
                .ok_or_else(|| TransportError::new(Invalid, "it is no envelope and cannot be replayed"));
        }
        if after.is_none() {
            return Err(TransportError::new(Invalid, "there is no such dead letter"));
        }
    }
}
