//! What a check says: how each handler would be run.

use std::fmt;

use super::Service;
use super::plan::Plan;
use crate::catalog::Finding;
use crate::handler::HandlerSpec;
use crate::policy::{OnFailure, Order};
use crate::text::Text;
use crate::topic::{Pattern, TopicTemplate};
use crate::transport::Delay;

/// How one handler would be run.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct CheckedHandler {
    /// The handler.
    pub handler: String,
    /// Its group; none where each instance gets everything.
    pub group: Option<String>,
    /// The message types that it takes.
    pub messages: Vec<String>,
    /// The topics that it subscribes to.
    pub topics: Vec<String>,
    /// The transports that they come from.
    pub transports: Vec<String>,
    /// The policy in a few words.
    pub policy: String,
    /// How long one attempt may take.
    pub timeout: std::time::Duration,
    /// What the transport does itself, and what is emulated, with its cost.
    pub notes: Vec<String>,
}

/// The resolved table of a service.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct CheckReport {
    /// The service.
    pub service: String,
    /// Its handlers.
    pub handlers: Vec<CheckedHandler>,
    /// What configuration says to no effect, or keeps from running.
    pub notes: Vec<String>,
    /// What the catalog's rules warn of.
    pub findings: Vec<Finding>,
}

impl Service {
    pub(super) fn report(&self, plans: &[Plan], findings: Vec<Finding>) -> CheckReport {
        let disabled = self.handlers.iter().filter(|spec| !self.configured.is_enabled(spec));
        let mut notes: Vec<String> = disabled
            .map(|spec| {
                let kept = if spec.group.is_some() {
                    "; its group keeps what comes, once it has been declared"
                } else {
                    ""
                };
                format!("handler {} is disabled{kept}", spec.name)
            })
            .collect();
        let specs = &self.handlers;
        let handled = specs.iter().flat_map(HandlerSpec::published).map(|(_, topic)| topic);
        let taken = specs.iter().flat_map(|spec| spec.registrations.iter().map(|taken| taken.template));
        let topics = handled.chain(taken).chain(self.governed.publishes.iter().map(|(_, topic)| *topic));
        let templates: Vec<Pattern> = topics
            .filter_map(|topic| TopicTemplate::new(Text::from_static(topic)).ok())
            .map(|topic| topic.pattern())
            .collect();
        let known: Vec<&Pattern> = specs.iter().flat_map(|spec| &spec.patterns).chain(&templates).collect();
        let idle = self.configured.destinations.iter();
        let idle = idle.filter(|(pattern, _)| !known.iter().any(|known| known.overlaps(pattern)));
        notes.extend(idle.map(|(pattern, place)| {
            format!("destination {place}: no topic of {pattern} is declared by this service")
        }));
        CheckReport {
            service: self.name.as_str().to_owned(),
            handlers: plans.iter().map(handler).collect(),
            notes,
            findings,
        }
    }
}

fn handler(plan: &Plan) -> CheckedHandler {
    let policy = &plan.policy;
    let order = match policy.order {
        Order::None => "no order",
        Order::Key(OnFailure::Overtake) => "key order, retries are overtaken",
        Order::Key(OnFailure::Hold) => "key order, the key waits",
    };
    let delayed = match &policy.delayed {
        None => "no delayed retries".to_owned(),
        Some(delayed) => {
            let last = delayed.delay(delayed.rounds);
            format!("{} delayed from {:?} to {last:?}", delayed.rounds, delayed.initial)
        }
    };
    let mut notes = Vec::new();
    for origin in &plan.origins {
        let can = origin.from.transport.capabilities();
        let name = &origin.from.name;
        if !plan.steps.is_empty() {
            notes.push(match can.delay {
                Delay::Native => format!("{name}: delays are native"),
                Delay::RetryTopics => {
                    format!(
                        "{name}: delays are emulated by {} retry topics, one reader each",
                        plan.steps.len()
                    )
                }
            });
        }
        if !can.delivery_count {
            notes.push(format!("{name}: a message that kills the process is not noticed"));
        }
        notes.extend(can.costs.iter().map(|cost| format!("{name}: {cost}")));
        if origin.dead_letters.name != *name {
            let kept = origin.dead_letters.transport.capabilities().durable;
            let end = if kept { "" } else { ", and gone with its process" };
            notes.push(format!("{name}: dead letters are kept at {}{end}", origin.dead_letters.name));
        }
    }
    CheckedHandler {
        handler: plan.identity.handler.as_str().to_owned(),
        group: plan.spec.group.as_ref().map(|group| group.as_str().to_owned()),
        messages: plan.spec.registrations.iter().map(|registration| registration.name().to_owned()).collect(),
        topics: plan.subscription.patterns.iter().map(|pattern| pattern.as_str().to_owned()).collect(),
        transports: plan
            .origins
            .iter()
            .map(|origin| format!("{} ({})", origin.from.name, origin.from.transport.system()))
            .collect(),
        timeout: policy.timeout,
        policy: format!(
            "{} at once, {} in place, {delayed}, {:?} each, {order}",
            policy.concurrency, policy.immediate, policy.timeout
        ),
        notes,
    }
}

impl fmt::Display for CheckReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "service {}", self.service)?;
        for handler in &self.handlers {
            let group = handler.group.as_deref().unwrap_or("(each instance)");
            writeln!(f, "\n  {} · group {group}", handler.handler)?;
            writeln!(f, "    takes   {}", handler.messages.join(", "))?;
            writeln!(f, "    topics  {}", handler.topics.join(", "))?;
            writeln!(f, "    from    {}", handler.transports.join(", "))?;
            writeln!(f, "    policy  {}", handler.policy)?;
            for note in &handler.notes {
                writeln!(f, "    note    {note}")?;
            }
        }
        for note in &self.notes {
            writeln!(f, "\n  note      {note}")?;
        }
        for finding in &self.findings {
            writeln!(f, "\n  {finding}")?;
        }
        Ok(())
    }
}
