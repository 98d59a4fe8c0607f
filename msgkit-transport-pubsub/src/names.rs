//! What topics, groups and patterns are called in a project, and back.
//!
//! An id of Pub/Sub has 3 to 255 of `A-Z a-z 0-9 - _ . ~ + %`, begins with a letter and not with `goog`. One that would not
//! stands behind `x~`. `~` is in none of our names, so it parts what an id is made of, and every id can be read back.

use msgkit::transport::{Destination, Group, Outgoing, TransportError};
use msgkit::{Pattern, Topic};

use crate::error::invalid;

/// The longest id that Pub/Sub takes.
const LONGEST: usize = 255;
/// What stands before an id that would not be legal.
const ESCAPE: &str = "x~";
/// The segment that stands for any value.
pub(crate) const ANY: &str = "_";
/// Where groups are written down.
const GROUPS: &str = "msgkit.groups";
/// What the subscriptions of a reader without a group begin with.
const EPHEMERAL: &str = "msgkit.ephemeral.";

/// How everything is called.
#[derive(Debug, Clone)]
pub(crate) struct Names {
    project: String,
    prefix: String,
}

/// Who reads: a group, or one instance.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Reader(String);

impl Reader {
    pub(crate) fn group(group: &Group) -> Self {
        Self(group.to_string())
    }

    /// One that nobody else is.
    pub(crate) fn alone() -> Self {
        Self(format!("{EPHEMERAL}{:032x}", fastrand::u128(..)))
    }

    pub(crate) fn as_group(&self) -> Option<Group> {
        Group::new(self.0.clone()).ok()
    }
}

impl Names {
    pub(crate) fn new(project: String, prefix: &str) -> Self {
        let prefix = if prefix.is_empty() { String::new() } else { format!("{prefix}.") };
        Self { project, prefix }
    }

    pub(crate) fn project(&self) -> String {
        format!("projects/{}", self.project)
    }

    /// The id of what is called `name` here.
    fn id(&self, name: &str) -> Result<String, TransportError> {
        let name = format!("{}{name}", self.prefix);
        let first = name.as_bytes().first().is_some_and(u8::is_ascii_alphabetic);
        let taken = name.to_ascii_lowercase().starts_with("goog") || name.starts_with(ESCAPE);
        let legal = first && name.len() >= 3 && !taken;
        let id = if legal { name } else { format!("{ESCAPE}{name}") };
        if id.len() > LONGEST {
            return Err(invalid(format!(
                "`{id:.100}…` has {} bytes, names of Pub/Sub have at most {LONGEST}; shorten the topic, or the path of the url",
                id.len()
            )));
        }
        Ok(id)
    }

    /// What an id is called here, without its escape and the prefix.
    fn name<'a>(&self, resource: &'a str) -> Option<&'a str> {
        let id = resource.rsplit('/').next().unwrap_or(resource);
        id.strip_prefix(ESCAPE).unwrap_or(id).strip_prefix(self.prefix.as_str())
    }

    /// The whole name of the Pub/Sub topic of `destination`.
    pub(crate) fn of(&self, destination: &Destination) -> Result<String, TransportError> {
        self.topic_of(destination.place().as_str())
    }

    /// The same of a message, which is a suspect where its next start is its last: it waits apart.
    pub(crate) fn of_message(&self, outgoing: &Outgoing) -> Result<String, TransportError> {
        match &outgoing.to {
            Destination::Retry { group, .. }
                if outgoing.envelope.retry().is_some_and(|retry| retry.last_start) =>
            {
                self.suspects(group)
            }
            to => self.of(to),
        }
    }

    /// The whole name of the Pub/Sub topic of a place; a segment that was rendered from other bytes is dynamic by its nature.
    pub(crate) fn topic_of(&self, place: &str) -> Result<String, TransportError> {
        let segments: Vec<&str> =
            place.split('.').map(|segment| if segment.contains('~') { ANY } else { segment }).collect();
        self.topic(&segments.join("."))
    }

    fn topic(&self, name: &str) -> Result<String, TransportError> {
        Ok(format!("projects/{}/topics/{}", self.project, self.id(name)?))
    }

    fn subscription(&self, name: &str) -> Result<String, TransportError> {
        Ok(format!("projects/{}/subscriptions/{}", self.project, self.id(name)?))
    }

    /// The topic that every group has an entry at.
    pub(crate) fn groups(&self) -> Result<String, TransportError> {
        self.topic(GROUPS)
    }

    /// A subscription that never is.
    pub(crate) fn nothing(&self) -> Result<String, TransportError> {
        self.subscription("msgkit.nothing")
    }

    pub(crate) fn retry(&self, group: &Group, step: u32) -> Result<String, TransportError> {
        self.topic(&format!("msgkit.retry.{group}.{step}"))
    }

    /// Copies whose next start is their last, alone.
    pub(crate) fn suspects(&self, group: &Group) -> Result<String, TransportError> {
        self.topic(&format!("msgkit.suspect.{group}"))
    }

    pub(crate) fn dead_letter(&self, group: &Group) -> Result<String, TransportError> {
        self.topic(&format!("msgkit.dead_letter.{group}"))
    }

    /// What the Pub/Sub topic `topic` is called here.
    pub(crate) fn place<'a>(&self, topic: &'a str) -> &'a str {
        self.name(topic).unwrap_or(topic)
    }

    /// The subscription of a topic that has only one: of copies, and of dead letters.
    pub(crate) fn only_subscription(&self, topic: &str) -> Result<String, TransportError> {
        self.subscription(self.place(topic))
    }

    /// The subscription of `reader` to the topic `topic`.
    pub(crate) fn reads(&self, reader: &Reader, topic: &str) -> Result<String, TransportError> {
        self.subscription(&format!("{}~{}", reader.0, self.place(topic)))
    }

    /// The entry that says that `reader` takes `pattern`: a subscription by its name alone, to which nothing is published.
    pub(crate) fn entry(&self, reader: &Reader, pattern: &Pattern) -> Result<String, TransportError> {
        let pattern = pattern.as_str().replace('*', "+").replace('>', "++");
        self.subscription(&format!("{}~~{pattern}", reader.0))
    }

    /// What an entry says.
    pub(crate) fn read_entry(&self, subscription: &str) -> Option<(Reader, Pattern)> {
        let (reader, pattern) = self.name(subscription)?.split_once("~~")?;
        let pattern = pattern.replace("++", ">").replace('+', "*").parse().ok()?;
        Some((Reader(reader.to_owned()), pattern))
    }

    /// Whether messages of the Pub/Sub topic `topic` may match one of `patterns`.
    pub(crate) fn may_hold(&self, topic: &str, patterns: &[Pattern]) -> bool {
        let Some(place) = self.name(topic) else { return false };
        // Also those of a system whose names begin with a prefix, seen by one whose names do not.
        let of_groups = ["retry.", "suspect.", "dead_letter.", "groups"];
        let mut inner =
            place.match_indices("msgkit.").filter(|(at, _)| *at == 0 || place.as_bytes()[at - 1] == b'.');
        let ours =
            inner.any(|(at, own)| of_groups.iter().any(|begin| place[at + own.len()..].starts_with(begin)));
        !ours && patterns.iter().any(|pattern| pattern.may_match_destination(place))
    }

    /// The topic of which a subscription is a group's.
    pub(crate) fn read_of(&self, subscription: &str) -> Option<Topic> {
        let (_, place) = self.name(subscription)?.split_once('~')?;
        Topic::from_wire(place.to_owned()).ok()
    }

    /// The topic of a message in the Pub/Sub topic `name` that does not name its own.
    pub(crate) fn implied(&self, name: &str) -> Topic {
        let place = self.name(name).unwrap_or(name);
        Topic::from_wire(place.to_owned()).unwrap_or_else(|_| Self::nowhere())
    }

    /// A topic that no message names.
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

    fn names(prefix: &str) -> Names {
        Names::new("p".to_owned(), prefix)
    }

    #[test]
    fn every_topic_has_an_id_and_is_read_back() {
        let plain = names("");
        for (topic, id) in [
            ("service_platform.auth.login", "service_platform.auth.login"),
            ("3rd_party.app", "x~3rd_party.app"),
            ("google.x", "x~google.x"),
            ("GOOG", "x~GOOG"),
            ("ab", "x~ab"),
            ("-a.b", "x~-a.b"),
        ] {
            let name = plain.topic_of(topic).unwrap();
            assert_eq!(name, format!("projects/p/topics/{id}"));
            assert_eq!(plain.implied(&name).as_str(), topic);
            let topic = Topic::from_wire(topic).unwrap();
            let reads = plain.reads(&Reader::group(&"x".parse().unwrap()), &name).unwrap();
            assert_eq!(plain.read_of(&reads), Some(topic));
        }
        assert_eq!(plain.topic_of("device.AA~3ABB.raw").unwrap(), "projects/p/topics/device._.raw");
        let own = names("plant");
        assert_eq!(own.topic_of("ab").unwrap(), "projects/p/topics/plant.ab");
        assert!(!own.may_hold("projects/p/topics/other.ab", &[">".parse().unwrap()]));
    }

    #[test]
    fn what_a_group_takes_can_be_read_from_its_entries() {
        for prefix in ["", "plant"] {
            let names = names(prefix);
            for group in ["3g_-", "x", "g"] {
                let reader = Reader::group(&group.parse().unwrap());
                for pattern in ["a.b", "*.b", "a.*.>", ">", "*"] {
                    let pattern: Pattern = pattern.parse().unwrap();
                    let entry = names.entry(&reader, &pattern).unwrap();
                    assert_eq!(names.read_entry(&entry), Some((reader.clone(), pattern)), "{entry}");
                }
            }
            let reader = Reader::group(&"x".parse().unwrap());
            let topic = names.topic_of("a.b").unwrap();
            assert_eq!(names.read_entry(&names.reads(&reader, &topic).unwrap()), None);
        }
        assert!(Reader::alone().as_group().is_none());
    }

    #[test]
    fn copies_are_no_user_data() {
        let names = names("plant");
        let group = "g".parse().unwrap();
        let all: Vec<Pattern> = vec![">".parse().unwrap(), "*.*.*".parse().unwrap()];
        for topic in
            [names.retry(&group, 1), names.suspects(&group), names.dead_letter(&group), names.groups()]
        {
            let topic = topic.unwrap();
            assert!(!names.may_hold(&topic, &all));
            assert!(!self::names("").may_hold(&topic, &all), "{topic} of another system");
        }
        assert!(self::names("").may_hold("projects/p/topics/a.not_msgkit.retry.b", &all));
        assert!(names.may_hold(&names.topic_of("device._.raw").unwrap(), &["device.7.raw".parse().unwrap()]));
    }

    #[test]
    fn a_name_that_is_too_long_says_so() {
        let error = names(&"p".repeat(100)).topic_of(&format!("a.{}", "b".repeat(200))).unwrap_err();
        assert!(error.to_string().contains("the path of the url"), "{error}");
    }
}
