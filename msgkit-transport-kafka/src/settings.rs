//! What the framework's own topics have to be like, where somebody else has made them: a dead letter that expires, or one
//! that nobody reads, is lost.

use std::collections::HashMap;

use msgkit::transport::TransportError;
use rdkafka::admin::{AdminOptions, ResourceSpecifier};
use rdkafka::types::RDKafkaErrorCode;

use crate::cluster::{ASK, Cluster, Kind};
use crate::error::{self, invalid};

impl Cluster {
    /// Refuses topics of which only the first partition would be read.
    pub(crate) fn refuse_split(
        wanted: &[(&str, Kind)],
        known: &HashMap<String, usize>,
    ) -> Result<(), TransportError> {
        for (name, _) in wanted.iter().filter(|(_, kind)| *kind == Kind::Kept) {
            if let Some(partitions) = known.get(*name).filter(|partitions| **partitions != 1) {
                return Err(invalid(format!(
                    "the Kafka topic `{name}` has {partitions} partitions, of which only the first would be read; copy what it \
                     holds to a topic with one partition first, then make it again with one"
                )));
            }
        }
        Ok(())
    }

    /// Refuses topics of the framework's own that do not keep what they have to keep. The brokers are asked once for each.
    pub(crate) async fn refuse_unfit(&self, wanted: &[(&str, Kind)]) -> Result<(), TransportError> {
        let asked: HashMap<&str, Kind> = {
            let fit = self.fit();
            wanted
                .iter()
                .copied()
                .filter(|(name, kind)| *kind != Kind::Topic && !fit.contains(*name))
                .collect()
        };
        if asked.is_empty() {
            return Ok(());
        }
        const UNKNOWN: &str = "nobody knows whether it keeps what it is for";
        let (_end, admin) = self.admin()?;
        let doing = "asking for the settings of Kafka topics";
        let topics: Vec<_> = asked.keys().map(|name| ResourceSpecifier::Topic(name)).collect();
        let options = AdminOptions::new().request_timeout(Some(ASK));
        let answers = admin.describe_configs(&topics, &options).await;
        let answers = match answers {
            Err(error) if error.rdkafka_error_code() == Some(RDKafkaErrorCode::UnsupportedFeature) => {
                asked.keys().map(|_| Err(RDKafkaErrorCode::UnsupportedFeature)).collect()
            }
            answers => answers.map_err(|error| self.said.explain(error, doing))?,
        };
        for (name, answer) in asked.keys().zip(answers) {
            match answer {
                Ok(settings) => {
                    let of = |key: &str| settings.get(key).and_then(|entry| entry.value.as_deref());
                    if let Some(fix) = unfit(asked[name], of) {
                        return Err(invalid(format!(
                            "the Kafka topic `{name}` does not keep what it is for; set {fix} (kafka-configs --alter)"
                        )));
                    }
                }
                Err(RDKafkaErrorCode::TopicAuthorizationFailed) => tracing::warn!(
                    topic = name,
                    "the user may not see the settings of a Kafka topic, so {UNKNOWN}"
                ),
                Err(RDKafkaErrorCode::UnsupportedFeature) => tracing::warn!(
                    topic = name,
                    "the brokers do not show the settings of a Kafka topic, so {UNKNOWN}"
                ),
                Err(code) => {
                    return Err(error::of(rdkafka::error::KafkaError::AdminOp(code), doing));
                }
            }
        }
        self.fit().extend(asked.into_keys().map(str::to_owned));
        Ok(())
    }
}

/// What would have to be set, where a topic for `kind` loses something as it is.
fn unfit<'a>(kind: Kind, setting: impl Fn(&str) -> Option<&'a str>) -> Option<&'static str> {
    let policy = setting("cleanup.policy").unwrap_or_default();
    let expires = policy.split(',').any(|one| one == "delete")
        && ["retention.ms", "retention.bytes"]
            .iter()
            .any(|key| setting(key).is_some_and(|most| most != "-1"));
    match kind {
        Kind::Topic => None,
        Kind::Kept => expires.then_some("`cleanup.policy=compact`"),
        // Copies have the keys of their messages: of those that share one, compaction would leave the last.
        Kind::Retry => (expires || policy.contains("compact"))
            .then_some("`cleanup.policy=delete`, `retention.ms=-1` and `retention.bytes=-1`"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_that_lets_go_of_something_is_unfit() {
        let fits = |kind, policy: &'static str, most: &'static str| {
            unfit(kind, |key| Some(if key == "cleanup.policy" { policy } else { most })).is_none()
        };
        assert!(fits(Kind::Kept, "compact", "604800000"));
        assert!(fits(Kind::Kept, "compact,delete", "-1"));
        assert!(!fits(Kind::Kept, "compact,delete", "604800000"));
        assert!(!fits(Kind::Kept, "delete", "604800000"));
        assert!(fits(Kind::Retry, "delete", "-1"));
        assert!(!fits(Kind::Retry, "delete", "604800000"));
        assert!(!fits(Kind::Retry, "compact", "-1"));
        assert!(fits(Kind::Topic, "delete", "1"));
    }
}
