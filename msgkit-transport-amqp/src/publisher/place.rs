//! Where a message goes: an exchange with a routing key, or one queue.

use std::borrow::Cow;

use msgkit::transport::{Destination, Group, Outgoing, Rejected, TransportError, TransportErrorKind};

use crate::broker::Broker;
use crate::later::Later;
use crate::topology::{Names, delay_millis};
use crate::wire::{self, Written};

/// Where a message goes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Place {
    /// To every queue that is bound to the topic.
    Topic { reserved: bool, key: String },
    /// To every queue that is bound to the topic when it is due.
    Later { key: String, later: Later },
    /// To one group's queue, at once.
    Group(Group),
    /// To the queue that keeps it for so many milliseconds, and then to the group's.
    Retry(Group, u64),
    /// To one group's dead letters.
    DeadLetter(Group),
    /// To one group, to be started once more with nothing else in hand.
    Suspect(Group),
    /// To the list of groups.
    Registry,
}

impl Place {
    pub(crate) fn is_topic(&self) -> bool {
        matches!(self, Self::Topic { .. } | Self::Later { .. })
    }

    /// The exchange and the routing key.
    pub(crate) fn address<'a>(&'a self, names: &'a Names) -> (Cow<'a, str>, Cow<'a, str>) {
        let queue = |name: String| (Cow::Borrowed(""), Cow::Owned(name));
        match self {
            Self::Topic { reserved, key } => (names.exchange_of(*reserved).into(), Cow::Borrowed(key)),
            Self::Later { key, later } => (names.later(later.top()).into(), Cow::Borrowed(key)),
            Self::Group(group) => queue(names.group(group.as_str())),
            Self::Retry(group, millis) => queue(names.retry(group.as_str(), *millis)),
            Self::DeadLetter(group) => queue(names.dead_letter(group.as_str())),
            Self::Suspect(group) => queue(names.suspects(group.as_str())),
            Self::Registry => queue(names.registry.clone()),
        }
    }
}

/// A message on its way.
#[derive(Debug)]
pub(crate) struct Parcel {
    pub(crate) message: Outgoing,
    pub(crate) place: Place,
    /// The name of the dead letter that it becomes.
    pub(crate) letter: Option<u128>,
    /// Written out, until the client has it; written again where it has to go once more, which is rare.
    pub(crate) written: Option<Written>,
}

impl Broker {
    /// Writes `message` out; refuses what the broker would never take.
    pub(crate) fn pack(&self, message: Outgoing) -> Result<Parcel, Rejected> {
        let most = self.config.max_payload;
        let size = message.envelope.payload().len();
        let refuse = |text: String| TransportError::new(TransportErrorKind::Invalid, text);
        if size > most {
            let error = refuse(format!(
                "message {} for `{}` has {size} bytes of payload, more than the {most} of `max_payload`; keep the data \
                 elsewhere and send its address",
                message.envelope.id(),
                message.to,
            ));
            return Err(Rejected { message, error });
        }
        let letter = matches!(message.to, Destination::DeadLetter(_)).then(|| fastrand::u128(..));
        let written = wire::write(&message.envelope, self.config.attribute_prefix, letter);
        if written.head > HEAD {
            let error = refuse(format!(
                "message {} for `{}` has about {} bytes of headers, more than the {HEAD} that fit into one AMQP frame; \
                 put them into the payload",
                message.envelope.id(),
                message.to,
                written.head,
            ));
            return Err(Rejected { message, error });
        }
        let place = self.place(&message);
        Ok(Parcel { message, place, letter, written: Some(written) })
    }

    /// Where `message` goes now: what is due later goes where it is kept until then.
    pub(crate) fn place(&self, message: &Outgoing) -> Place {
        let rest = message.envelope.not_before().map(|due| due.since(self.clock.now()));
        match &message.to {
            Destination::Retry { group, delay, .. } => match rest.filter(|rest| !rest.is_zero()) {
                Some(rest) => Place::Retry(group.clone(), delay_millis(rest, *delay)),
                None if message.envelope.retry().is_some_and(|retry| retry.last_start) => {
                    Place::Suspect(group.clone())
                }
                None => Place::Group(group.clone()),
            },
            Destination::DeadLetter(group) => Place::DeadLetter(group.clone()),
            Destination::Topic { topic, .. }
                if !topic.is_reserved() && rest.is_some_and(|rest| !rest.is_zero()) =>
            {
                Place::Later { key: topic.as_str().to_owned(), later: Later::after(rest.unwrap_or_default()) }
            }
            Destination::Topic { topic, .. } => {
                Place::Topic { reserved: topic.is_reserved(), key: topic.as_str().to_owned() }
            }
            // A destination that this version does not know would be a silent loss anywhere else.
            other => {
                Place::Topic { reserved: other.as_topic().is_reserved(), key: other.name().into_owned() }
            }
        }
    }
}

/// The most bytes of properties and headers: RabbitMQ's frames hold 128 KiB.
const HEAD: usize = 120 << 10;
