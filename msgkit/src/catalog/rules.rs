//! What a system may not look like, and for how long it may all the same.

use std::collections::BTreeMap;
use std::fmt;

use super::day::Day;
use super::entry::MessageType;
use super::{Catalog, graph};
use crate::text::Text;
use crate::topic::Namespace;

/// Something that a catalog is checked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Rule {
    /// A topic lies in no declared namespace. Says nothing where none is declared at all.
    UndeclaredNamespace,
    /// A component publishes to a namespace whose `publishers` do not name it.
    ForbiddenPublisher,
    /// A component handles messages of a namespace whose `consumers` do not name it.
    ForbiddenConsumer,
    /// A message, or a call, may cause itself again. Only the catalog of a whole system shows all of them.
    Cycle,
}

impl Rule {
    /// All of them.
    pub const ALL: [Self; 4] =
        [Self::UndeclaredNamespace, Self::ForbiddenPublisher, Self::ForbiddenConsumer, Self::Cycle];

    /// The rule as configuration writes it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::UndeclaredNamespace => "undeclared_namespace",
            Self::ForbiddenPublisher => "forbidden_publisher",
            Self::ForbiddenConsumer => "forbidden_consumer",
            Self::Cycle => "cycle",
        }
    }
}

/// How much breaking a rule matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Level {
    /// Not at all.
    Allow,
    /// It is reported.
    Warn,
    /// [`Service::check`](crate::Service::check) fails.
    Deny,
}

impl Level {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Allow, Self::Warn, Self::Deny];

    /// The level as configuration writes it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Warn => "warn",
            Self::Deny => "deny",
        }
    }
}

/// Lets one finding pass until a day.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Waiver {
    /// The rule.
    pub rule: Rule,
    /// The finding's [`Finding::subject`].
    pub subject: Text,
    /// Why it may pass.
    pub reason: Text,
    /// The last day on which it does.
    pub expires: Day,
}

impl Waiver {
    /// Lets `subject` break `rule` up to and including the day `expires`.
    #[must_use]
    pub fn new(rule: Rule, subject: impl Into<Text>, reason: impl Into<Text>, expires: Day) -> Self {
        Self { rule, subject: subject.into(), reason: reason.into(), expires }
    }
}

/// The level of each rule, and what is waived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rules {
    levels: BTreeMap<Rule, Level>,
    waivers: Vec<Waiver>,
}

impl Default for Rules {
    /// Forbidden publishers and consumers are denied, the others warned of; nothing is waived.
    fn default() -> Self {
        use Rule::{Cycle, ForbiddenConsumer, ForbiddenPublisher, UndeclaredNamespace};
        let levels = [
            (UndeclaredNamespace, Level::Warn),
            (ForbiddenPublisher, Level::Deny),
            (ForbiddenConsumer, Level::Deny),
            (Cycle, Level::Warn),
        ];
        Self { levels: levels.into(), waivers: Vec::new() }
    }
}

impl Rules {
    /// Sets the level of one rule.
    #[must_use]
    pub fn with(mut self, rule: Rule, level: Level) -> Self {
        self.levels.insert(rule, level);
        self
    }

    /// Adds a waiver.
    #[must_use]
    pub fn waive(mut self, waiver: Waiver) -> Self {
        self.waivers.push(waiver);
        self
    }

    /// The level of a rule.
    #[must_use]
    pub fn level(&self, rule: Rule) -> Level {
        self.levels.get(&rule).copied().unwrap_or(Level::Warn)
    }

    /// What is waived.
    #[must_use]
    pub fn waivers(&self) -> &[Waiver] {
        &self.waivers
    }
}

/// Something that breaks a rule, or a waiver that has expired.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Finding {
    /// The rule.
    pub rule: Rule,
    /// How much it matters; never [`Level::Allow`].
    pub level: Level,
    /// What breaks it, as a waiver has to name it.
    pub subject: Text,
    /// What is wrong.
    pub problem: String,
    /// What to do.
    pub fix: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} [{}]: {}; {}", self.level.as_str(), self.rule.as_str(), self.problem, self.fix)
    }
}

pub(super) fn check(catalog: &Catalog, rules: &Rules, today: Day) -> Vec<Finding> {
    let mut all = undeclared(catalog);
    all.extend(forbidden(catalog, Rule::ForbiddenPublisher));
    all.extend(forbidden(catalog, Rule::ForbiddenConsumer));
    all.extend(cycles(catalog));
    let waived = |finding: &Finding| {
        rules.waivers.iter().any(|waiver| {
            waiver.rule == finding.rule && waiver.subject == finding.subject && waiver.expires >= today
        })
    };
    all.retain(|finding| !waived(finding));
    for finding in &mut all {
        finding.level = rules.level(finding.rule);
    }
    all.retain(|finding| finding.level > Level::Allow);
    let expired = rules.waivers.iter().filter(|waiver| waiver.expires < today);
    all.extend(expired.map(|waiver| Finding {
        level: rules.level(waiver.rule).max(Level::Warn),
        problem: format!(
            "the waiver for `{}` (\"{}\") expired after {}",
            waiver.subject, waiver.reason, waiver.expires
        ),
        fix: "delete it, and put right what it waived where that is still so".to_owned(),
        ..finding(waiver.rule, waiver.subject.to_string())
    }));
    all.sort_by_key(|finding| std::cmp::Reverse(finding.level));
    all
}

/// A finding whose texts are still to come.
fn finding(rule: Rule, subject: String) -> Finding {
    Finding { rule, level: Level::Allow, subject: subject.into(), problem: String::new(), fix: String::new() }
}

fn undeclared(catalog: &Catalog) -> Vec<Finding> {
    if catalog.namespaces().next().is_none() {
        return Vec::new();
    }
    let mut topics: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for message in catalog.messages() {
        if catalog.namespace_of(message).is_none() {
            topics.entry(message.topic()).or_default().push(message.name());
        }
    }
    let finding = |(topic, messages): (&str, Vec<&str>)| {
        let first = topic.split('.').next().unwrap_or(topic);
        Finding {
            problem: format!("topic `{topic}` of `{}` lies in no declared namespace", messages.join("`, `")),
            fix: format!("declare `[namespaces.{first}]` with its team, or use a topic below a declared one"),
            ..finding(Rule::UndeclaredNamespace, topic.to_owned())
        }
    };
    topics.into_iter().map(finding).collect()
}

/// Whether `component` is one of `allowed`, or part of one.
fn is_allowed(component: &str, allowed: &[Text]) -> bool {
    allowed.is_empty()
        || allowed.iter().any(|name| {
            component.strip_prefix(name.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        })
}

fn forbidden(catalog: &Catalog, rule: Rule) -> Vec<Finding> {
    let publishing = rule == Rule::ForbiddenPublisher;
    let allowed = |namespace: &Namespace| {
        if publishing { namespace.publishers.clone() } else { namespace.consumers.clone() }
    };
    let uses: Vec<(&str, &MessageType)> = if publishing {
        catalog.publications().map(|(component, _, message)| (component, message)).collect()
    } else {
        let taken = |handler| {
            let handler: &super::HandlerEntry = handler;
            handler.taken().map(move |message| (handler.component(), message))
        };
        catalog.handlers().flat_map(taken).collect()
    };
    let mut found: BTreeMap<(&str, &str), (&Namespace, Vec<&str>)> = BTreeMap::new();
    for (component, message) in uses {
        if let Some(namespace) = catalog.namespace_of(message)
            && !is_allowed(component, &allowed(namespace))
        {
            let entry = found.entry((component, namespace.prefix.as_str()));
            let (_, messages) = entry.or_insert_with(|| (namespace, Vec::new()));
            if !messages.contains(&message.name()) {
                messages.push(message.name());
            }
        }
    }
    let finding = |((component, prefix), (namespace, messages)): ((&str, &str), (&Namespace, Vec<&str>))| {
        let (subject, does, key) = if publishing {
            (format!("{component} -> {prefix}"), "publishes", "publishers")
        } else {
            (format!("{prefix} -> {component}"), "handles", "consumers")
        };
        let only = allowed(namespace);
        Finding {
            problem: format!(
                "component `{component}` {does} `{}` of namespace `{prefix}`, which only `{}` may",
                messages.join("`, `"),
                only.iter().map(Text::as_str).collect::<Vec<_>>().join("`, `")
            ),
            fix: format!("ask {} to add it to `{key}`, or do without", namespace.team),
            ..finding(rule, subject)
        }
    };
    found.into_iter().map(finding).collect()
}

fn cycles(catalog: &Catalog) -> Vec<Finding> {
    let finding = |cycle: Vec<String>| {
        let round = cycle.join(" -> ");
        Finding {
            problem: format!("`{round}` and back: what happens there may cause itself again, without end"),
            fix: "break the circle, or waive it by this subject where something ends it".to_owned(),
            ..finding(Rule::Cycle, round)
        }
    };
    graph::cycles(catalog).into_iter().map(finding).collect()
}
