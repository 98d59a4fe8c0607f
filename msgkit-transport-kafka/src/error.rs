//! What the client says, as errors that name the thing and the fix.

use msgkit::transport::{TransportError, TransportErrorKind};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

/// What this transport is called.
pub(crate) const SYSTEM: &str = "kafka";

/// The error of every call after `close`.
pub(crate) fn closed() -> TransportError {
    TransportError::closed(SYSTEM)
}

/// A request that cannot be right.
pub(crate) fn invalid(text: impl Into<String>) -> TransportError {
    TransportError::new(TransportErrorKind::Invalid, text)
}

/// The error of a blocking task that broke off.
pub(crate) fn broke_off(doing: &str) -> TransportError {
    TransportError::new(TransportErrorKind::Internal, format!("{doing} broke off"))
}

/// `error` of the client, met while `doing` something.
pub(crate) fn of(error: KafkaError, doing: &str) -> TransportError {
    let (kind, hint) = match error.rdkafka_error_code() {
        Some(code) => kind_of(code),
        None => (TransportErrorKind::Internal, ""),
    };
    let text = if hint.is_empty() { format!("{doing} failed") } else { format!("{doing} failed: {hint}") };
    TransportError::new(kind, text).with_source(error)
}

/// What `code` means for the caller, and what to look at.
pub(crate) fn kind_of(code: RDKafkaErrorCode) -> (TransportErrorKind, &'static str) {
    use RDKafkaErrorCode as Code;
    use TransportErrorKind as Kind;
    match code {
        Code::Authentication | Code::SaslAuthenticationFailed => {
            (Kind::Refused, "the broker refuses the user or the password of the url, or the `sasl` mechanism")
        }
        Code::UnsupportedSASLMechanism | Code::IllegalSASLState => {
            (Kind::Refused, "the broker does not offer this `sasl` mechanism")
        }
        Code::SSL => (
            Kind::Refused,
            "look at the server's certificate, and at `ca_file` where it is signed by an authority of your own",
        ),
        Code::TopicAuthorizationFailed => (Kind::Refused, "the user may not do this with the topic"),
        Code::GroupAuthorizationFailed => (Kind::Refused, "the user may not be a member of the group"),
        Code::ClusterAuthorizationFailed => (
            Kind::Refused,
            "the user may not do this; create the topics by hand and set `create_topics = false`",
        ),
        Code::MessageSizeTooLarge | Code::InvalidMessageSize => {
            (Kind::Invalid, "the message is larger than the topic's `max.message.bytes`")
        }
        Code::InvalidTopic => (Kind::Invalid, "the name is none that Kafka can have"),
        Code::InconsistentGroupProtocol => (
            Kind::Refused,
            "the group has members that do not rebalance cooperatively; give these handlers another group",
        ),
        Code::FencedInstanceId => {
            (Kind::Refused, "another process has the same `instance`; each needs a name of its own")
        }
        Code::PolicyViolation => (Kind::Refused, "a policy of the cluster forbids it"),
        Code::InvalidReplicationFactor => {
            (Kind::Invalid, "the cluster has fewer brokers than `replication` asks for")
        }
        Code::InvalidPartitions => (Kind::Invalid, "look at `partitions`"),
        Code::UnknownTopicOrPartition | Code::UnknownTopic | Code::UnknownPartition => {
            (Kind::Unavailable, "the topic is not there (any more)")
        }
        Code::QueueFull => (Kind::Full, "more is published than the broker takes; see `publish_buffer`"),
        Code::MessageTimedOut | Code::OperationTimedOut | Code::RequestTimedOut | Code::TimedOutQueue => {
            (Kind::Timeout, "the broker has not answered in time")
        }
        Code::Resolve => (Kind::Unavailable, "the host of the url is not known"),
        Code::BrokerTransportFailure | Code::AllBrokersDown => {
            (Kind::Unavailable, "no broker can be reached; look at host and port of the url")
        }
        Code::InvalidArgument | Code::InvalidRequest | Code::InvalidConfig => (Kind::Invalid, ""),
        _ => (Kind::Unavailable, ""),
    }
}
