//! Where a message goes: an exchange with a routing key, or one queue.

use std::borrow::Cow;

use msgkit::transport::{Destination, Group, Outgoing, Rejected, TransportError, TransportErrorKind};

use crate::broker::Broker;
use crate::topology::{Names, delay_millis};
use crate::wire::{self, Written};

/// Where a message goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Place {
    /// To every queue that is bound to the topic.
    Topic { reserved: bool, key: String },
    /// To one group's queue, at once.
    Group(Group),
    /// To the queue that keeps it for so many milliseconds, and then to the group's.
    Retry(Group, u64),
    /// To one group's dead letters.
    DeadLetter(Group),
    /// To a queue by its name.
    Queue(String),
}

impl Place {
    pub(crate) fn is_topic(&self) -> bool {
        matches!(self, Self::Topic { .. })
    }

    /// The exchange and the routing key.
    pub(crate) fn address<'a>(&'a self, names: &'a Names) -> (&'a str, Cow<'a, str>) {
        match self {
            Self::Topic { reserved, key } => (names.exchange_of(*reserved), Cow::Borrowed(key)),
            Self::Group(group) => ("", names.group(group.as_str()).into()),
            Self::Retry(group, millis) => ("", names.retry(group.as_str(), *millis).into()),
            Self::DeadLetter(group) => ("", names.dead_letter(group.as_str()).into()),
            Self::Queue(queue) => ("", Cow::Borrowed(queue)),
        }
    }
}

/// A message on its way, written out once.
#[derive(Debug)]
pub(crate) struct Parcel {
    pub(crate) message: Outgoing,
    pub(crate) place: Place,
    pub(crate) written: Written,
}

impl Broker {
    /// Writes `message` out; refuses what the broker would never take.
    #[expect(clippy::result_large_err, reason = "the error gives the message back")]
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
        Ok(Parcel { message, place, written })
    }

    /// Where `message` goes now: what is due later goes where it is kept until then.
    pub(crate) fn place(&self, message: &Outgoing) -> Place {
        let rest = message.envelope.not_before().map(|due| due.since(self.clock.now()));
        match &message.to {
            Destination::Retry { group, delay, .. } => match rest.filter(|rest| !rest.is_zero()) {
                Some(rest) => Place::Retry(group.clone(), delay_millis(rest, *delay)),
                None => Place::Group(group.clone()),
            },
            Destination::DeadLetter(group) => Place::DeadLetter(group.clone()),
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
