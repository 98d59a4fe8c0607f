//! What the client says, as errors that name the thing and the fix.

use std::fmt;

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
    let (kind, hint) = match (&error, error.rdkafka_error_code()) {
        (_, Some(code)) => kind_of(code),
        (KafkaError::ClientCreation(text), None) => not_made(text),
        _ => (TransportErrorKind::Internal, ""),
    };
    let text = if hint.is_empty() { format!("{doing} failed") } else { format!("{doing} failed: {hint}") };
    TransportError::new(kind, text).with_source(Native(error))
}

/// What the client said, once: its own error repeats itself as its source.
#[derive(Debug)]
pub(crate) struct Native(pub(crate) KafkaError);

impl fmt::Display for Native {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.rdkafka_error_code() {
            Some(code) => code.fmt(f),
            None => self.0.fmt(f),
        }
    }
}

impl std::error::Error for Native {}

/// What keeps a client from being made: files that it reads at once.
fn not_made(text: &str) -> (TransportErrorKind, &'static str) {
    let files = [
        ("ssl.ca.location", "`ca_file` cannot be read, or is no PEM file with certificates"),
        ("ssl.certificate.location", "`cert_file` cannot be read, or is no PEM file with a certificate"),
        ("ssl.key.location", "`key_file` cannot be read, or is no PEM file with a key without a password"),
        (
            "rivate key check failed",
            "the key of `key_file` does not belong to the certificate of `cert_file`",
        ),
    ];
    let found = files.into_iter().find(|(said, _)| text.contains(said));
    found.map_or((TransportErrorKind::Internal, ""), |(_, hint)| (TransportErrorKind::Refused, hint))
}

/// What the client's `reason` means, which tells more of a connection that does not come about than a code.
pub(crate) fn meaning(reason: &str) -> Option<(TransportErrorKind, &'static str)> {
    use TransportErrorKind as Kind;
    const CERTIFICATE: &str =
        "the broker refuses the client's certificate, or wants one: set `cert_file` and `key_file`";
    let known = [
        (
            "certificate could not be verified",
            Kind::Refused,
            "the server's certificate is not to be trusted: it has expired, is for another host, or its authority is not in \
             `ca_file`",
        ),
        ("certificate required", Kind::Refused, CERTIFICATE),
        ("alert bad certificate", Kind::Refused, CERTIFICATE),
        ("alert certificate unknown", Kind::Refused, CERTIFICATE),
        ("alert unknown ca", Kind::Refused, CERTIFICATE),
        ("client SSL authentication", Kind::Refused, CERTIFICATE),
        (
            "supported mechanisms",
            Kind::Refused,
            "the broker does not offer this `sasl` mechanism; choose `plain`, `scram_sha_256` or `scram_sha_512`",
        ),
        // A broker that ends may look like this for a moment.
        (
            "PLAINTEXT broker listener",
            Kind::Unavailable,
            "the connection ended before TLS was spoken; is the port one for `kafka:`?",
        ),
    ];
    known.into_iter().find(|(said, _, _)| reason.contains(said)).map(|(_, kind, hint)| (kind, hint))
}

/// Whether the client has met, by its `code` and `reason`, a broker's own word that it wants us not as we are, or a certificate that
/// we do not trust. A connection that ends while they come to know each other has the same code, and an error of the client's own in
/// its reason: a broker that restarts does that.
pub(crate) fn is_refusal(code: RDKafkaErrorCode, reason: &str) -> bool {
    match meaning(reason) {
        Some((kind, _)) => kind == TransportErrorKind::Refused && !reason.contains("Local: "),
        None => {
            matches!(code, RDKafkaErrorCode::Authentication | RDKafkaErrorCode::SaslAuthenticationFailed)
                && !reason.contains("Local: ")
                && !reason.contains("Disconnected")
        }
    }
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
            "TLS failed; look at the server's certificate, `ca_file`, `cert_file` and `key_file`",
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
        Code::OffsetMetadataTooLarge => {
            (Kind::Invalid, "the brokers' `offset.metadata.max.bytes` is below its default of 4096")
        }
        Code::QueueFull => (Kind::Full, "more is published than the broker takes; see `publish_buffer`"),
        Code::MessageTimedOut | Code::OperationTimedOut | Code::RequestTimedOut | Code::TimedOutQueue => {
            (Kind::Timeout, "the broker has not answered in time")
        }
        Code::Resolve => (Kind::Unavailable, "the host of the url is not known"),
        Code::BrokerTransportFailure | Code::AllBrokersDown => {
            // The client does not tell a broker that is not there from one that ends the connection at once.
            (
                Kind::Unavailable,
                "no broker can be reached, or it ends the connection at once; look at host and port of the url, at its scheme \
                 (does the port want `kafkas:`?), and whether the broker wants a user",
            )
        }
        Code::InvalidArgument | Code::InvalidRequest | Code::InvalidConfig => (Kind::Invalid, ""),
        _ => (Kind::Unavailable, ""),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_a_brokers_own_word() {
        let code = RDKafkaErrorCode::Authentication;
        for reason in [
            "sasl_plaintext://b:9092/bootstrap: SASL authentication error: Authentication failed: Invalid username or password (after \
             310ms in state AUTH_REQ)",
            "SASL PLAIN mechanism handshake failed: Broker: Unsupported SASL mechanism: broker's supported mechanisms: SCRAM-SHA-512",
        ] {
            assert!(is_refusal(code, reason), "{reason}");
        }
        assert!(is_refusal(RDKafkaErrorCode::SSL, "SSL handshake failed: certificate could not be verified"));
        for (code, reason) in [
            (
                code,
                "SASL PLAIN mechanism handshake failed: Local: Broker transport failure: broker's supported mechanisms: ",
            ),
            (code, "Disconnected: hung up from peer in state AUTH_LEGACY"),
            (RDKafkaErrorCode::SSL, "SSL handshake failed: Disconnected"),
            (
                RDKafkaErrorCode::BrokerTransportFailure,
                "Connect to ipv4#127.0.0.1:1 failed: Connection refused",
            ),
        ] {
            assert!(!is_refusal(code, reason), "{reason}");
        }
    }
}
