//! Topics and what Kafka calls them. A topic is the Kafka topic of its place, behind the configured prefix; a segment that
//! Kafka's names cannot hold is dynamic by its nature, and so `_`. `[[destinations]]` send topics elsewhere.

use msgkit::transport::{Destination, Group, TransportError};
use msgkit::{Pattern, Topic};

use crate::config::{DestinationRule, KafkaConfig};
use crate::error::invalid;

/// The longest name that Kafka takes.
const LONGEST: usize = 249;
/// The segment that stands for any value.
const ANY: &str = "_";

/// What the name of a Kafka topic says of a message in it that names no topic itself.
#[derive(Debug)]
pub(crate) struct Implied {
    pub(crate) topic: Topic,
    /// Whether a publisher of ours leaves the topic out here, because the name says it. Where it is not, the name is
    /// only the best word there is for what may be of any topic.
    pub(crate) sure: bool,
}

/// How topics and groups are called at this cluster.
#[derive(Debug, Clone)]
pub(crate) struct Names {
    prefix: String,
    rules: Vec<DestinationRule>,
}

impl Names {
    pub(crate) fn new(config: &KafkaConfig) -> Self {
        Self { prefix: config.prefix.clone(), rules: config.destinations.clone() }
    }

    /// The Kafka topic of `destination`.
    pub(crate) fn of(&self, destination: &Destination) -> Result<String, TransportError> {
        match destination {
            Destination::Topic { topic, place } => {
                if let Some(rule) = self.rules.iter().find(|rule| rule.matches.matches(topic)) {
                    return Ok(rule.topic.clone());
                }
                self.of_place(place.as_ref().unwrap_or(topic))
            }
            _ => self.checked(format!("{}{}", self.prefix, destination.name())),
        }
    }

    /// The Kafka topic of a place (`device._.telemetry`) that no rule names.
    fn of_place(&self, place: &Topic) -> Result<String, TransportError> {
        let segments: Vec<&str> =
            place.segments().map(|segment| if segment.contains('~') { ANY } else { segment }).collect();
        self.checked(format!("{}{}", self.prefix, segments.join(".")))
    }

    /// Every Kafka topic that messages of a place go to: by rules, and its own where no rule takes all of it.
    pub(crate) fn all_of_place(&self, place: &Topic) -> Result<Vec<String>, TransportError> {
        let wild: Vec<&str> =
            place.segments().map(|segment| if segment == ANY { "*" } else { segment }).collect();
        let Ok(set) = Pattern::new(wild.join(".")) else { return Ok(vec![self.of_place(place)?]) };
        let mut all = Vec::new();
        for rule in self.rules.iter().filter(|rule| rule.matches.overlaps(&set)) {
            all.push(rule.topic.clone());
            if rule.matches.contains(&set) {
                return Ok(all);
            }
        }
        all.push(self.of_place(place)?);
        Ok(all)
    }

    fn checked(&self, name: String) -> Result<String, TransportError> {
        if name.len() > LONGEST {
            return Err(invalid(format!(
                "`{name}` has {} bytes, Kafka's names have at most {LONGEST}; shorten the topic, or `prefix`",
                name.len()
            )));
        }
        Ok(name)
    }

    /// Whether the Kafka topic `name` says that its messages are of `topic`; one that rules send others to says nothing.
    pub(crate) fn says(&self, name: &str, topic: &Topic) -> bool {
        name.strip_prefix(&self.prefix) == Some(topic.as_str())
            && !self.rules.iter().any(|rule| rule.topic == name)
    }

    /// The consumer group of `group`.
    pub(crate) fn group(&self, group: &Group) -> String {
        format!("{}{group}", self.prefix)
    }

    /// The Kafka topic of one of `group`'s delay steps, which is the name of its consumer group too.
    pub(crate) fn retry(&self, group: &Group, step: u32) -> String {
        format!("{}msgkit.retry.{group}.{step}", self.prefix)
    }

    /// The step of a retry topic of `group`.
    pub(crate) fn retry_step(&self, group: &Group, name: &str) -> Option<u32> {
        let rest = name.strip_prefix(&self.prefix)?.strip_prefix("msgkit.retry.")?;
        rest.strip_prefix(group.as_str())?.strip_prefix('.')?.parse().ok()
    }

    pub(crate) fn dead_letter(&self, group: &Group) -> String {
        format!("{}msgkit.dead_letter.{group}", self.prefix)
    }

    /// Where the groups are written down.
    pub(crate) fn groups(&self) -> String {
        format!("{}msgkit.groups", self.prefix)
    }

    /// Whether messages of the Kafka topic `name` may match one of `patterns`.
    pub(crate) fn may_hold(&self, name: &str, patterns: &[Pattern]) -> bool {
        let mut sent_here = self.rules.iter().filter(|rule| rule.topic == name).peekable();
        if sent_here.peek().is_some() {
            return sent_here.any(|rule| patterns.iter().any(|pattern| pattern.overlaps(&rule.matches)));
        }
        let Some(place) = name.strip_prefix(&self.prefix) else { return false };
        let reserved = place.starts_with("__") || place.starts_with("msgkit.");
        !reserved && patterns.iter().any(|pattern| pattern.may_match_destination(place))
    }

    /// The topic of a message in the Kafka topic `name` that does not name its own.
    pub(crate) fn topic(&self, name: &str) -> Topic {
        let mut sent_here = self.rules.iter().filter(|rule| rule.topic == name);
        if let Some(topic) = sent_here.find_map(|rule| rule.matches.as_topic()) {
            return topic;
        }
        let place = name.strip_prefix(&self.prefix).unwrap_or(name);
        if let Ok(topic) = Topic::from_wire(place) {
            return topic;
        }
        let rendered: Vec<_> = place.split('.').map(Topic::render_segment).collect();
        Topic::from_wire(rendered.join(".")).unwrap_or_else(|_| Self::nowhere())
    }

    /// What the name of the Kafka topic `name` says of messages that do not name their own topic.
    pub(crate) fn implied(&self, name: &str) -> Implied {
        let topic = self.topic(name);
        let sure = self.says(name, &topic);
        Implied { topic, sure }
    }

    /// A topic that nothing is published to.
    pub(crate) fn nowhere() -> Topic {
        match Topic::from_wire("msgkit.unknown") {
            Ok(topic) => topic,
            Err(_) => unreachable!("`msgkit.unknown` is a legal topic"),
        }
    }

    /// The places at which somebody who takes `patterns` expects messages: those that are known, else the patterns
    /// without wildcards.
    pub(crate) fn places(&self, patterns: &[Pattern], places: &[Topic]) -> Vec<Topic> {
        if places.is_empty() {
            return patterns.iter().filter_map(Pattern::as_topic).collect();
        }
        places.to_vec()
    }
}

/// What Kafka takes for the same name: it refuses two topics that differ by `.` and `_` alone.
pub(crate) fn alike(name: &str) -> String {
    name.replace('.', "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(rules: &[(&str, &str)]) -> Names {
        let rule = |(matches, topic): &(&str, &str)| DestinationRule {
            matches: matches.parse().unwrap(),
            topic: (*topic).to_owned(),
        };
        let config = KafkaConfig {
            prefix: "test.".to_owned(),
            destinations: rules.iter().map(rule).collect(),
            ..KafkaConfig::default()
        };
        Names::new(&config)
    }

    fn topic(name: &str) -> Topic {
        Topic::from_wire(name).unwrap()
    }

    fn patterns(all: &[&str]) -> Vec<Pattern> {
        all.iter().map(|pattern| pattern.parse().unwrap()).collect()
    }

    #[test]
    fn what_kafka_cannot_call_so_is_dynamic() {
        let names = names(&[]);
        assert_eq!(names.of_place(&topic("device.AA~3ABB.telemetry")).unwrap(), "test.device._.telemetry");
        assert_eq!(names.of_place(&topic("a.b_c-d")).unwrap(), "test.a.b_c-d");
    }

    #[test]
    fn a_rule_sends_topics_elsewhere_and_readers_follow() {
        let names = names(&[("device.>", "fleet"), ("orders.created", "legacy_orders")]);
        let to = Destination::topic(topic("device.7.telemetry"));
        assert_eq!(names.of(&to).unwrap(), "fleet");
        assert!(names.may_hold("fleet", &patterns(&["device.7.*"])));
        assert!(!names.may_hold("fleet", &patterns(&["orders.*"])));
        assert_eq!(names.all_of_place(&topic("orders.created")).unwrap(), ["legacy_orders"]);
        assert_eq!(names.topic("legacy_orders").as_str(), "orders.created");
        assert!(names.may_hold("legacy_orders", &patterns(&["orders.>"])));
    }

    #[test]
    fn a_pattern_covers_what_it_may_match_and_nothing_reserved() {
        let names = names(&[]);
        let all = patterns(&[">"]);
        assert!(names.may_hold("test.device._.telemetry", &patterns(&["device.7.telemetry"])));
        assert!(!names.may_hold("test.device._.alarm", &patterns(&["device.7.telemetry"])));
        assert!(names.may_hold("test.a", &all));
        for name in [
            "a",
            "__consumer_offsets",
            "test.msgkit.retry.g.1",
            "test.msgkit.dead_letter.g",
            "test.msgkit.groups",
        ] {
            assert!(!names.may_hold(name, &all), "{name}");
        }
    }

    #[test]
    fn only_a_name_that_publishers_rely_on_is_sure() {
        let names = names(&[("device.>", "fleet"), ("orders.created", "legacy"), ("mail.>", "test.stock")]);
        for (name, topic, sure) in [
            ("test.billing.paid", "billing.paid", true),
            ("test.stock", "stock", false),
            ("test.unit._.raw", "unit.~5F.raw", false),
            ("fleet", "fleet", false),
            ("legacy", "orders.created", false),
        ] {
            let implied = names.implied(name);
            assert_eq!((implied.topic.as_str(), implied.sure), (topic, sure), "{name}");
        }
    }

    #[test]
    fn a_name_that_is_too_long_says_so() {
        let config = KafkaConfig { prefix: "p".repeat(200), ..KafkaConfig::default() };
        let error = Names::new(&config).of_place(&topic(&format!("a.{}", "b".repeat(90)))).unwrap_err();
        assert!(error.to_string().contains("prefix"), "{error}");
    }

    #[test]
    fn a_retry_topic_tells_its_step() {
        let names = names(&[]);
        let group = Group::new("g").unwrap();
        assert_eq!(names.retry_step(&group, &names.retry(&group, 12)), Some(12));
        assert_eq!(names.retry_step(&group, "test.msgkit.retry.g2.1"), None);
    }
}
