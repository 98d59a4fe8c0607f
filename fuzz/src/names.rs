//! Topics, patterns, templates, namespaces and the other names: each line is read as every one of them.

use msgkit::envelope::HeaderName;
use msgkit::topic::{MAX_DECLARED, MAX_RENDERED};
use msgkit::{
    Error, ErrorKind, Group, MessageId, Namespace, NamespaceClass, Pattern, Timestamp, Topic, TopicTemplate,
};

use crate::refusal;

/// As many lines are looked at, since each pattern meets each topic.
const LINES: usize = 12;

/// Panics where a promise does not hold for these bytes.
pub fn check(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let lines: Vec<&str> = text.split('\n').take(LINES).collect();
    let (mut topics, mut patterns) = (Vec::new(), Vec::new());
    for line in &lines {
        other_names(line);
        segment(line);
        topics.extend(topic(line));
        patterns.extend(pattern(line));
        if let Some(template) = accepted(TopicTemplate::new(*line)) {
            check_template(&template, &lines, &mut topics);
        }
    }
    for topic in &topics {
        if let Some(namespace) =
            accepted(Namespace::new(topic.text().clone(), "o", "p", NamespaceClass::Edge))
        {
            check_namespace(&namespace, &topics);
        }
    }
    patterns.extend(topics.iter().map(Pattern::exact));
    check_patterns(&patterns, &topics);
}

fn accepted<T>(read: Result<T, Error>) -> Option<T> {
    read.inspect_err(|error| {
        refusal::check(error);
        assert_eq!(error.kind(), ErrorKind::InvalidName);
    })
    .ok()
}

fn topic(line: &str) -> Option<Topic> {
    let strict = accepted(Topic::new(line));
    let wire = accepted(Topic::from_wire(line));
    if let Some(topic) = &strict {
        assert_eq!(wire.as_ref(), Some(topic));
        assert!(!topic.is_reserved());
    }
    if let Some(topic) = &wire {
        assert!((1..=MAX_RENDERED).contains(&topic.as_str().len()));
        assert_eq!(topic.as_str(), line);
        assert!(strict.is_some() || topic.is_reserved());
        for segment in topic.segments() {
            assert!(!segment.is_empty() && segment != "_");
            let value = Topic::read_segment(segment);
            assert!(value.is_some(), "{segment}");
        }
    }
    wire
}

fn pattern(line: &str) -> Option<Pattern> {
    let pattern = accepted(Pattern::new(line))?;
    assert!(pattern.as_str().len() <= MAX_DECLARED);
    assert_eq!(pattern.as_str(), line);
    if let Some(topic) = pattern.as_topic() {
        assert_eq!(Topic::new(line).as_ref().ok(), Some(&topic));
        assert_eq!(Pattern::exact(&topic), pattern);
        assert!(pattern.matches(&topic));
    }
    Some(pattern)
}

/// Any text is a segment, and comes back as it was.
fn segment(line: &str) {
    let rendered = Topic::render_segment(line);
    assert_eq!(Topic::read_segment(&rendered).as_deref(), Some(line));
    if rendered.len() + 2 <= MAX_RENDERED {
        assert!(Topic::new(format!("a.{rendered}")).is_ok(), "{rendered}");
    }
}

fn check_template(template: &TopicTemplate, values: &[&str], topics: &mut Vec<Topic>) {
    assert!(template.as_str().len() <= MAX_DECLARED);
    let fields = template.fields().count();
    assert_eq!(template.is_dynamic(), fields > 0);
    let pattern = template.pattern();
    assert_eq!(Pattern::new(pattern.as_str()).as_ref().ok(), Some(&pattern));
    assert!(pattern.may_match_destination(&template.destination()));
    let values: Vec<&str> = values.iter().copied().cycle().take(fields).collect();
    if let Some(topic) = accepted(template.render(&values)) {
        assert_eq!(Topic::new(topic.as_str()).as_ref().ok(), Some(&topic));
        assert!(pattern.matches(&topic), "{template} does not match its own {topic}");
        let read: Vec<_> = template
            .as_str()
            .split('.')
            .zip(topic.segments())
            .filter(|(declared, _)| declared.starts_with('{'))
            .filter_map(|(_, segment)| Topic::read_segment(segment))
            .collect();
        assert_eq!(read, values);
        topics.push(topic);
    }
    assert!(template.render(&vec!["x"; fields + 1]).is_err());
}

fn check_namespace(namespace: &Namespace, topics: &[Topic]) {
    let pattern = namespace.pattern();
    for topic in topics {
        let below = pattern.matches(topic);
        assert_eq!(namespace.contains(topic.as_str()), below || *topic == namespace.prefix);
    }
}

fn check_patterns(patterns: &[Pattern], topics: &[Topic]) {
    let own_patterns: Vec<Pattern> =
        patterns.iter().filter(|pattern| !reserved_name(pattern.as_str())).cloned().collect();
    let own_topics: Vec<Topic> = topics.iter().filter(|topic| !topic.is_reserved()).cloned().collect();
    for pattern in patterns {
        assert!(pattern.contains(pattern) && pattern.overlaps(pattern), "{pattern} with itself");
        for topic in topics {
            assert_eq!(pattern.matches(topic), reference(pattern, topic), "{pattern} with {topic}");
            if pattern.matches(topic) {
                assert!(pattern.may_match_destination(topic.as_str()));
            }
        }
    }
    // What begins with a reserved segment is the framework's, and not compared.
    for pattern in &own_patterns {
        let (patterns, topics) = (&own_patterns, &own_topics);
        for other in patterns {
            assert_eq!(pattern.overlaps(other), other.overlaps(pattern), "{pattern} with {other}");
            if pattern.contains(other) {
                assert!(pattern.overlaps(other), "{pattern} contains {other} and has nothing of it");
            }
            if pattern.overlaps(other) {
                let both = common(pattern, other);
                assert!(
                    reference(pattern, &both) && reference(other, &both),
                    "{pattern} overlaps {other}, and neither has {both}"
                );
            }
            for topic in topics {
                let (mine, theirs) = (pattern.matches(topic), other.matches(topic));
                assert!(
                    !(mine && theirs) || pattern.overlaps(other),
                    "{pattern}, {other}: both have {topic}"
                );
                assert!(
                    !theirs || mine || !pattern.contains(other),
                    "{pattern} contains {other}, not {topic}"
                );
            }
        }
    }
}

fn reserved_name(name: &str) -> bool {
    name.starts_with("msgkit.")
}

/// A plain reading of what a pattern says it matches.
fn reference(pattern: &Pattern, topic: &Topic) -> bool {
    fn rest(pattern: &[&str], topic: &[&str]) -> bool {
        match (pattern, topic) {
            ([], []) => true,
            ([">"], [_, ..]) => true,
            (["*", pattern @ ..], [_, topic @ ..]) => rest(pattern, topic),
            ([wanted, pattern @ ..], [is, topic @ ..]) => wanted == is && rest(pattern, topic),
            _ => false,
        }
    }
    let (pattern, topic): (Vec<_>, Vec<_>) = (pattern.segments().collect(), topic.segments().collect());
    let wild = matches!(pattern[0], "*" | ">");
    let reserved = matches!(topic[0], "msgkit" | "amq") || topic[0].starts_with("__");
    !(wild && reserved) && rest(&pattern, &topic)
}

/// A topic that is in both sets, where the two overlap.
fn common(one: &Pattern, other: &Pattern) -> Topic {
    let (mut mine, mut theirs) = (one.segments(), other.segments());
    let mut name: Vec<&str> = Vec::new();
    let (mut my_rest, mut their_rest) = (false, false);
    loop {
        let a = if my_rest { None } else { mine.next() };
        let b = if their_rest { None } else { theirs.next() };
        my_rest |= a == Some(">");
        their_rest |= b == Some(">");
        let literal = [a, b].into_iter().flatten().find(|segment| !matches!(*segment, "*" | ">"));
        match (a, b) {
            (None, None) => break,
            _ => name.push(literal.unwrap_or("x")),
        }
    }
    match Topic::from_wire(name.join(".")) {
        Ok(topic) => topic,
        Err(error) => panic!("{one} and {other} share no topic: {error}"),
    }
}

fn other_names(line: &str) {
    if let Some(group) = accepted(Group::new(line)) {
        assert!((1..=48).contains(&group.as_str().len()) && group.as_str() == line);
    }
    if let Some(header) = accepted(HeaderName::new(line)) {
        assert!((1..=20).contains(&header.as_str().len()) && header.as_str() == line);
    }
    if let Some(id) = accepted(MessageId::parse(line)) {
        assert_eq!(id.to_string(), line);
        assert_eq!(MessageId::parse(line).ok(), Some(id));
    }
    if let Some(time) = accepted(line.parse::<Timestamp>()) {
        assert_eq!(time.to_string().parse::<Timestamp>().ok(), Some(time));
    }
    match line.parse::<NamespaceClass>() {
        Ok(class) => assert_eq!(class.as_str(), line),
        Err(error) => drop(refusal::check(&error)),
    }
}
