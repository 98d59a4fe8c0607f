//! Which stream a topic is in, and which streams a subscription reads.

use std::collections::BTreeSet;

use msgkit::Topic;
use msgkit::envelope::MessageId;
use msgkit::transport::{Destination, Group, Subscription};

use crate::config::DestinationRule;

/// How streams are called.
#[derive(Debug, Clone)]
pub(crate) struct Names {
    prefix: String,
    rules: Vec<DestinationRule>,
}

/// The streams of a subscription.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// Those that are known by name.
    pub(crate) named: BTreeSet<String>,
    /// Whether there may be more, among those that are there.
    pub(crate) others: bool,
}

impl Names {
    pub(crate) fn new(prefix: String, rules: Vec<DestinationRule>) -> Self {
        Self { prefix, rules }
    }

    /// What everything of this system begins with, in the lease table too.
    pub(crate) fn prefix(&self) -> &str {
        &self.prefix
    }

    fn own(&self, name: &str) -> String {
        if self.prefix.is_empty() { name.to_owned() } else { format!("{}.{name}", self.prefix) }
    }

    /// The default stream of a first segment. `~` is in no stream's name, and `.` in no segment, so it stands for it.
    fn of_segment(&self, segment: &str) -> String {
        self.own(&segment.replace('~', "."))
    }

    /// The stream that `to` is published to.
    pub(crate) fn stream_of(&self, to: &Destination) -> String {
        match to {
            Destination::Retry { group, step, .. } => self.retry(group, *step),
            Destination::DeadLetter(group) => self.dead_letter(group),
            _ => self.stream_of_place(&to.place()),
        }
    }

    pub(crate) fn stream_of_place(&self, place: &Topic) -> String {
        match self.rules.iter().find(|rule| rule.matches.matches(place)) {
            Some(rule) => rule.stream.clone(),
            None => self.of_segment(place.segments().next().unwrap_or_default()),
        }
    }

    pub(crate) fn retry(&self, group: &Group, step: u32) -> String {
        self.own(&format!("msgkit.retry.{group}.{step}"))
    }

    pub(crate) fn dead_letter(&self, group: &Group) -> String {
        self.own(&format!("msgkit.dead_letter.{group}"))
    }

    /// Who a group is to a stream that pushes to it. A consumer's name has at most 128 characters.
    pub(crate) fn consumer(&self, group: &Group) -> String {
        let name = self.own(group.as_str());
        if name.len() <= 128 { name } else { MessageId::derived(&[b"consumer", name.as_bytes()]).to_string() }
    }

    /// The streams in which there may be messages of `subscription`.
    pub(crate) fn wanted(&self, subscription: &Subscription) -> Wanted {
        let mut wanted = Wanted::default();
        'patterns: for pattern in &subscription.patterns {
            for rule in &self.rules {
                if rule.matches.overlaps(pattern) {
                    wanted.named.insert(rule.stream.clone());
                }
                if rule.matches.contains(pattern) {
                    continue 'patterns;
                }
            }
            match pattern.segments().next() {
                Some("*" | ">") => wanted.others = true,
                Some(first) => {
                    wanted.named.insert(self.of_segment(first));
                }
                None => {}
            }
        }
        // The places say where messages with dynamic segments are that a rule sends elsewhere.
        wanted.named.extend(subscription.places.iter().map(|place| self.stream_of_place(place)));
        wanted
    }

    /// Whether a stream that is there holds topics of this system, by default.
    pub(crate) fn is_ours(&self, stream: &str) -> bool {
        let name = match self.prefix.as_str() {
            "" => stream,
            prefix => match stream.strip_prefix(prefix).and_then(|rest| rest.strip_prefix('.')) {
                Some(name) => name,
                None => return false,
            },
        };
        // Retries, dead letters, and what belongs to somebody else: a segment's name has no `.` but for an escape.
        Topic::new(name.replace('.', "~")).is_ok()
    }

    /// The topic of a record that names none, and whether the configuration tells it.
    pub(crate) fn topic_of(&self, stream: &str, key: &str) -> (Topic, bool) {
        let told =
            self.rules.iter().filter(|rule| rule.stream == stream).find_map(|rule| rule.foreign.as_deref());
        let told =
            told.and_then(|foreign| Topic::new(foreign.replace("{key}", &Topic::render_segment(key))).ok());
        if let Some(topic) = told {
            return (topic, true);
        }
        let name = match self.prefix.as_str() {
            "" => stream,
            prefix => stream.strip_prefix(prefix).and_then(|rest| rest.strip_prefix('.')).unwrap_or(stream),
        };
        let topic = Topic::new(name.replace('.', "~")).or_else(|_| Topic::from_wire(name.to_owned()));
        (topic.unwrap_or_else(|_| Self::nowhere()), false)
    }

    /// A topic that nothing is published to.
    pub(crate) fn nowhere() -> Topic {
        match Topic::from_wire("msgkit.unknown") {
            Ok(topic) => topic,
            Err(_) => unreachable!("`msgkit.unknown` is a legal topic"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names() -> Names {
        let rules = vec![
            DestinationRule::new("device.*.raw".parse().unwrap(), "raw").with_foreign("device.{key}.raw"),
            DestinationRule::new("device.>".parse().unwrap(), "devices"),
        ];
        Names::new("app".to_owned(), rules)
    }

    fn wanted(pattern: &str) -> (Vec<String>, bool) {
        let group = "g".parse().unwrap();
        let wanted = names().wanted(&Subscription::group(group, [pattern.parse().unwrap()]));
        (wanted.named.into_iter().collect(), wanted.others)
    }

    #[test]
    fn what_is_published_is_where_it_is_read() {
        let names = names();
        let stream = |topic: &str| names.stream_of_place(&topic.parse().unwrap());
        assert_eq!(stream("orders.created"), "app.orders");
        assert_eq!(stream("a~3Ab.created"), "app.a.3Ab");
        assert_eq!(stream("device.7.raw"), "raw");
        assert_eq!(stream("device.7.telemetry"), "devices");
        assert_eq!(wanted("orders.>"), (vec!["app.orders".to_owned()], false));
        assert_eq!(wanted("device.7.raw"), (vec!["raw".to_owned()], false));
        assert_eq!(wanted("device.>"), (vec!["devices".to_owned(), "raw".to_owned()], false));
        assert!(wanted("*.created").1);
        assert_eq!(wanted(">"), (vec!["devices".to_owned(), "raw".to_owned()], true));
    }

    #[test]
    fn streams_of_others_and_copies_are_not_user_data() {
        let names = names();
        assert!(names.is_ours("app.orders") && names.is_ours("app.a.3Ab"));
        assert!(!names.is_ours("orders") && !names.is_ours("application.orders"));
        assert!(!names.is_ours("app.msgkit.retry.g.1") && !names.is_ours("app.msgkit.dead_letter.g"));
        assert!(!names.is_ours("app.some.thing"));
    }

    #[test]
    fn a_record_without_a_topic_has_that_of_its_stream() {
        let names = names();
        let topic = |stream: &str, key: &str| {
            let (topic, told) = names.topic_of(stream, key);
            (topic.to_string(), told)
        };
        assert_eq!(topic("raw", "AA:BB"), ("device.AA~3ABB.raw".to_owned(), true));
        assert_eq!(topic("app.orders", "k"), ("orders".to_owned(), false));
        assert_eq!(topic("app.a.3Ab", "k"), ("a~3Ab".to_owned(), false));
        assert_eq!(topic("app.msgkit.retry.g.1", "k"), ("msgkit.retry.g.1".to_owned(), false));
        assert_eq!(topic("..", "k"), ("msgkit.unknown".to_owned(), false));
    }
}
