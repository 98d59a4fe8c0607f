//! Topics and patterns as MQTT writes them.
//!
//! A segment is a level: `.` ↔ `/`. A device's own level (`AA:BB`) is sent raw and is `AA~3ABB` in msgkit, so that both
//! sides write what is usual there; what could not be told apart on the way back is sent as msgkit writes it.

use std::borrow::Cow;

use msgkit::transport::Group;
use msgkit::{Pattern, Text, Topic};

/// What stands in the place of a slot's number in the mark of a keeper.
pub(crate) const KEEPER: &str = "keeper";
/// What stands there where it is written what the group takes.
pub(crate) const PATTERNS: &str = "patterns";
/// What stands there where the members of a lane are asked whether they are there, and where they answer.
pub(crate) const CALL: &str = "call";
pub(crate) const HERE: &str = "here";

/// Where everything of one transport lies: below `prefix`, where one is configured.
#[derive(Debug, Clone, Default)]
pub(crate) struct Names {
    /// Empty, or the prefix with a `/` at its end.
    root: String,
}

impl Names {
    /// Below `prefix`, which may be empty.
    pub(crate) fn new(prefix: &str) -> Self {
        let prefix = prefix.trim_end_matches('/');
        Self { root: if prefix.is_empty() { String::new() } else { format!("{prefix}/") } }
    }

    /// The MQTT topic of `topic`.
    pub(crate) fn topic(&self, topic: &Topic) -> String {
        let mut name = String::with_capacity(self.root.len() + topic.as_str().len());
        name.push_str(&self.root);
        push_levels(&mut name, topic.segments());
        name
    }

    /// The filter of `pattern`: `*` is `+`, `>` is `+/#`, because `#` alone matches the parent level too.
    pub(crate) fn filter(&self, pattern: &Pattern) -> String {
        let mut name = String::with_capacity(self.root.len() + pattern.as_str().len() + 2);
        name.push_str(&self.root);
        push_levels(&mut name, pattern.segments());
        name
    }

    /// The topic that an MQTT topic stands for; `None` where msgkit cannot write it (over 255 bytes, reserved).
    pub(crate) fn read(&self, name: &str) -> Option<Topic> {
        let rest = name.strip_prefix(self.root.as_str())?;
        if !rest.contains(['~', '.']) && !rest.is_empty() {
            // The usual case: no level needs another writing.
            if let Ok(topic) = Topic::from_wire(rest.replace('/', ".")) {
                return Some(topic);
            }
        }
        let mut topic = String::with_capacity(rest.len() + 8);
        for (at, level) in rest.split('/').enumerate() {
            if at > 0 {
                topic.push('.');
            }
            topic.push_str(&segment_of(level));
        }
        Topic::from_wire(topic).ok()
    }

    /// The place of the copies of `group` that wait for delay `step`.
    pub(crate) fn retry(&self, group: &Group, step: u32) -> String {
        format!("{}msgkit/retry/{group}/{step}", self.root)
    }

    /// Where slot `slot` of `lane` says whether somebody has it; see [`crate::slots`].
    pub(crate) fn slot(&self, group: &Group, lane: u32, slot: u32) -> String {
        format!("{}msgkit/slots/{group}/{lane}/{slot}", self.root)
    }

    /// Where the keeper of `lane` says whether somebody has it; see [`crate::link`].
    pub(crate) fn keeper(&self, group: &Group, lane: u32) -> String {
        format!("{}msgkit/slots/{group}/{lane}/{KEEPER}", self.root)
    }

    /// Where it is written what `group` takes, whichever version of it; see [`crate::slots`].
    pub(crate) fn patterns(&self, group: &Group) -> String {
        format!("{}msgkit/slots/{group}/0/{PATTERNS}", self.root)
    }

    /// Where members of `lane` are asked whether they are there, and where they say so; see [`crate::link`].
    pub(crate) fn roll(&self, group: &Group, lane: u32, what: &str) -> String {
        format!("{}msgkit/slots/{group}/{lane}/{what}", self.root)
    }

    /// What the keeper of `lane` asks itself through the broker: `question` is a level.
    pub(crate) fn keeper_asks(&self, group: &Group, lane: u32, question: &str) -> String {
        format!("{}msgkit/keeper/{group}/{lane}/{question}", self.root)
    }

    /// All slots of `group`.
    pub(crate) fn slots(&self, group: &Group) -> String {
        format!("{}msgkit/slots/{group}/+/+", self.root)
    }

    /// Lane and slot, where `name` is the place of one, or of a keeper ([`KEEPER`]).
    pub(crate) fn read_slot<'a>(&self, group: &Group, name: &'a str) -> Option<(u32, &'a str)> {
        let rest = name.strip_prefix(self.root.as_str())?.strip_prefix("msgkit/slots/")?;
        let (lane, slot) = rest.strip_prefix(group.as_str())?.strip_prefix('/')?.split_once('/')?;
        Some((lane.parse().ok()?, slot))
    }

    /// A filter that nobody is subscribed to: the question that a broker answers in its order.
    pub(crate) fn nowhere(&self) -> String {
        format!("{}msgkit/nowhere", self.root)
    }
}

/// Whether `filter` matches every topic that `wanted` matches. Neither is shared.
pub(crate) fn covers(filter: &str, wanted: &str) -> bool {
    let (mut levels, mut wanted) = (filter.split('/'), wanted.split('/'));
    loop {
        match (levels.next(), wanted.next()) {
            (Some("#"), _) | (None, None) => return true,
            (Some("+"), Some(level)) if level != "#" => {}
            (Some(level), Some(other)) if level == other => {}
            _ => return false,
        }
    }
}

fn push_levels<'a>(name: &mut String, segments: impl Iterator<Item = &'a str>) {
    for (at, segment) in segments.enumerate() {
        if at > 0 {
            name.push('/');
        }
        match segment {
            "*" => name.push('+'),
            ">" => name.push_str("+/#"),
            _ => name.push_str(&level_of(segment, at == 0)),
        }
    }
}

/// The level that a segment is sent as.
fn level_of(segment: &str, first: bool) -> Cow<'_, str> {
    if !segment.contains('~') {
        return Cow::Borrowed(segment);
    }
    match Topic::read_segment(segment) {
        Some(raw)
            if !raw.contains(['/', '+', '#'])
                && crate::wire::is_carried(&raw)
                && !(first && (raw.starts_with('$') || raw.is_empty()))
                && segment_of(&raw) == segment =>
        {
            Cow::Owned(raw.into_owned())
        }
        _ => Cow::Borrowed(segment),
    }
}

/// The segment that a level stands for: what is written as a segment already is taken for one.
fn segment_of(level: &str) -> Cow<'_, str> {
    let written = level.contains('~')
        && Topic::read_segment(level).is_some()
        && level.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'~'));
    if written { Cow::Borrowed(level) } else { Topic::render_segment(level) }
}

/// The fewest filters that together match what `patterns` match, no topic twice.
///
/// A broker delivers once per filter, so filters must not overlap: what lies in another one is left out, and two that
/// overlap give way to the smallest that holds both. What only the larger one matches is filtered out on arrival.
pub(crate) fn disjoint(patterns: &[Pattern]) -> Vec<Pattern> {
    let mut all: Vec<Pattern> = Vec::new();
    for pattern in patterns {
        let mut pattern = pattern.clone();
        while let Some(at) = all.iter().position(|known| known.overlaps(&pattern)) {
            let known = all.swap_remove(at);
            pattern = if known.contains(&pattern) {
                known
            } else if pattern.contains(&known) {
                pattern
            } else {
                join(&known, &pattern)
            };
        }
        all.push(pattern);
    }
    all.sort();
    all
}

/// The smallest pattern that holds both.
fn join(one: &Pattern, other: &Pattern) -> Pattern {
    let (mut mine, mut theirs) = (one.segments(), other.segments());
    let mut joined: Vec<&str> = Vec::new();
    loop {
        match (mine.next(), theirs.next()) {
            (None, None) => break,
            (Some(a), Some(b)) if a == b && a != ">" => joined.push(a),
            (Some(a), Some(b)) if a != ">" && b != ">" => joined.push("*"),
            _ => {
                joined.push(">");
                break;
            }
        }
    }
    // Every part was legal in one of the two; `>` alone holds everything.
    Pattern::new(Text::from(joined.join("."))).unwrap_or_else(|_| everything())
}

fn everything() -> Pattern {
    match Pattern::new(Text::from_static(">")) {
        Ok(pattern) => pattern,
        Err(_) => unreachable!("`>` is a legal pattern"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topics_and_filters_are_written_as_mqtt_does() {
        let names = Names::new("plant/7");
        let filter = |pattern: &str| names.filter(&pattern.parse().unwrap());
        assert_eq!(names.topic(&"a.b-c.d_e".parse().unwrap()), "plant/7/a/b-c/d_e");
        assert_eq!(filter("a.*.c"), "plant/7/a/+/c");
        assert_eq!(filter("a.>"), "plant/7/a/+/#");
        assert_eq!(filter(">"), "plant/7/+/#");
        assert_eq!(Names::new("").filter(&">".parse().unwrap()), "+/#");
        assert_eq!(names.read("plant/7/a/b").map(|topic| topic.to_string()).as_deref(), Some("a.b"));
        assert_eq!(names.read("plant/8/a/b"), None);
    }

    #[test]
    fn a_filter_covers_what_matches_no_more() {
        for (wide, narrow) in [
            ("a/b", "a/b"),
            ("+/b", "a/b"),
            ("+/+", "a/+"),
            ("a/+/#", "a/b/c"),
            ("a/#", "a"),
            ("+/#", "+/+/#"),
        ] {
            assert!(covers(wide, narrow), "{wide} {narrow}");
            assert_eq!(covers(narrow, wide), wide == narrow, "{narrow} {wide}");
        }
        for (one, other) in [("+/b", "a/+"), ("a", "a/b"), ("a/+", "a/#"), ("a/+/#", "a/#"), ("a/+/#", "a")] {
            assert!(!covers(one, other), "{one} {other}");
        }
    }

    #[test]
    fn every_topic_comes_back_as_it_was_and_no_two_share_a_name() {
        let names = Names::new("");
        let topics = [
            "a.b",
            "a.b_c",
            "a.b~5Fc",
            "a.~5F",
            "a.~",
            "device.AA~3ABB.t",
            "a.b~2Fc",
            "a.b~7E5Fc",
            "a.x~7Ey",
            "~24SYS.a",
            "a.~2B",
            "a.1~2E5",
        ];
        let mut written: Vec<String> = Vec::new();
        for topic in topics {
            let name = names.topic(&topic.parse().unwrap());
            assert_eq!(names.read(&name).map(|topic| topic.to_string()).as_deref(), Some(topic), "{name}");
            assert!(!name.contains(['+', '#']) && !name.starts_with('$'), "{name}");
            written.push(name);
        }
        assert!(written.contains(&"device/AA:BB/t".to_owned()), "the raw level is sent: {written:?}");
        written.sort();
        written.dedup();
        assert_eq!(written.len(), topics.len());
    }

    #[test]
    fn levels_of_foreign_devices_become_segments() {
        let names = Names::new("");
        let read = |name: &str| names.read(name).map(|topic| topic.to_string());
        assert_eq!(read("sensor/1.5/x").as_deref(), Some("sensor.1~2E5.x"));
        assert_eq!(read("/a//b").as_deref(), Some("~.a.~.b"));
        assert_eq!(read("büro/_").as_deref(), Some("b~C3~BCro.~5F"));
        assert_eq!(read(&"x".repeat(300)), None);
    }

    #[test]
    fn overlapping_patterns_give_filters_that_do_not() {
        let joined = |patterns: &[&str]| {
            let patterns: Vec<Pattern> = patterns.iter().map(|pattern| pattern.parse().unwrap()).collect();
            disjoint(&patterns).iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(joined(&["a.b", "x.y"]), ["a.b", "x.y"]);
        assert_eq!(joined(&["a.>", "a.*", "a.b", "*.b"]), ["*.>"]);
        assert_eq!(joined(&["a.*", "*.b"]), ["*.*"]);
        assert_eq!(joined(&["a.b", "a.>", "c"]), ["a.>", "c"]);
        assert_eq!(joined(&["a.*.c", "a.b.*", "a.b.c"]), ["a.*.*"]);
    }
}
