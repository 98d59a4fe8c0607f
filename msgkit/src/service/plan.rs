//! A handler as it will be run: policy resolved, transports chosen, every promise that a transport cannot keep refused.

use std::sync::Arc;
use std::time::Duration;

use crate::config::nearest;
use crate::error::Error;
use crate::handler::{HandlerIdentity, HandlerSpec, Registration};
use crate::policy::{Delayed, OnFailure, Order, Policy};
use crate::text::Text;
use crate::topic::{Pattern, Topic};
use crate::transport::{Declaration, Delay, Destination, Group, Subscription, Transport};

/// A transport under the name that configuration gives it.
#[derive(Debug, Clone)]
pub(crate) struct Named {
    pub(crate) name: Text,
    pub(crate) transport: Arc<dyn Transport>,
    /// Whether somebody else closes it.
    pub(crate) shared: bool,
}

/// One transport that a handler receives from, and where what fails there goes.
#[derive(Debug, Clone)]
pub(crate) struct Origin {
    pub(crate) from: Named,
    pub(crate) dead_letters: Named,
}

/// A handler as it will be run.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) spec: HandlerSpec,
    pub(crate) identity: HandlerIdentity,
    /// The group that copies and dead letters carry: the subscription's, or the service's name where it has none.
    pub(crate) group: Group,
    pub(crate) policy: Policy,
    pub(crate) steps: Vec<Duration>,
    pub(crate) origins: Vec<Origin>,
    pub(crate) subscription: Subscription,
}

impl Plan {
    /// Puts a handler's parts together.
    pub(crate) fn new(
        service: &Group,
        spec: HandlerSpec,
        policy: Policy,
        origins: Vec<Origin>,
    ) -> Result<Self, Error> {
        let name = spec.name.clone();
        let group = spec.group.clone().unwrap_or_else(|| service.clone());
        let identity = HandlerIdentity::new(service.text().clone(), name.clone(), group.text().clone());
        if spec.registrations.is_empty() {
            return Err(Error::refused(format!(
                "handler `{name}` takes no message; name one: `#[handler(message = …)]`"
            )));
        }
        let mut patterns = spec.patterns.clone();
        let mut places = Vec::new();
        for registration in &spec.registrations {
            let template = registration.template()?;
            if spec.patterns.is_empty() {
                let pattern = template.pattern();
                if !patterns.contains(&pattern) {
                    patterns.push(pattern);
                }
            } else if !spec.patterns.iter().any(|pattern| pattern.overlaps(&template.pattern())) {
                return Err(Error::refused(format!(
                    "handler `{name}` takes `{}` from topic `{template}`, which none of its subscriptions matches; \
                     subscribe to `{}` too",
                    registration.name(),
                    template.pattern(),
                )));
            }
            places.push(Topic::trusted(template.destination()));
        }
        check_ingest(&spec, &patterns)?;
        let delayed = policy.delayed.as_ref().filter(|_| spec.group.is_some());
        let hold = matches!(policy.order, Order::Key(OnFailure::Hold));
        let steps = if hold { Vec::new() } else { delayed.map(Delayed::steps).unwrap_or_default() };
        let mut subscription = match &spec.group {
            Some(group) => Subscription::group(group.clone(), patterns),
            None => Subscription::ephemeral(patterns),
        }
        .with_start(spec.start)
        .with_prefetch(policy.in_flight);
        subscription.places = places;
        subscription.ingest = spec.ingest.clone();
        Ok(Self { spec, identity, group, policy, steps, origins, subscription })
    }

    /// Refuses what a transport cannot honour, naming the key to change.
    pub(crate) fn check(&self) -> Result<(), Error> {
        let name = &self.identity.handler;
        if self.origins.is_empty() {
            return Err(Error::refused(format!(
                "no route leads to the topics of handler `{name}`; add `[[routes]] match = \">\" to = \"…\"`"
            )));
        }
        for Origin { from, dead_letters } in &self.origins {
            let can = from.transport.capabilities();
            let refuse = |what: &str, fix: &str| {
                Err(Error::refused(format!(
                    "handler `{name}` {what}, which transport `{}` ({}) cannot; {fix}",
                    from.name,
                    from.transport.system()
                )))
            };
            if self.spec.group.is_some() && !can.groups {
                return refuse("has a group", "make it ephemeral, or route its topics to another transport");
            }
            if self.spec.group.is_none() && !can.ephemeral {
                return refuse("is ephemeral", "give it a group, or route its topics to another transport");
            }
            match self.spec.start {
                crate::transport::Start::Earliest if !can.start.earliest => {
                    return refuse("starts at the earliest message", "set `start = \"latest\"`");
                }
                crate::transport::Start::At(_) if !can.start.time => {
                    return refuse("starts at a point in time", "set `start = \"latest\"`");
                }
                _ => {}
            }
            if let (Order::Key(OnFailure::Hold), Some(delayed), Some(longest)) =
                (self.policy.order, &self.policy.delayed, can.max_hold)
                && delayed.total() > longest
            {
                return refuse(
                    &format!("may hold a message for {:?} (`order = \"key_hold\"`)", delayed.total()),
                    &format!("lower `delayed.rounds` or `delayed.max` until the sum is below {longest:?}"),
                );
            }
            if !dead_letters.transport.capabilities().keeps_unread {
                return Err(Error::refused(format!(
                    "dead letters of handler `{name}` would go to transport `{}` ({}), which does not keep what nobody \
                     reads; set `[transports.{}] dead_letters = \"<a transport that does>\"`",
                    dead_letters.name,
                    dead_letters.transport.system(),
                    from.name,
                )));
            }
        }
        Ok(())
    }

    /// What must exist at `transport` before the first publish.
    pub(crate) fn declarations(&self, transport: &Text) -> Vec<Declaration> {
        let mut all = Vec::new();
        for Origin { from, dead_letters } in &self.origins {
            if from.name == *transport && self.spec.group.is_some() {
                all.push(Declaration::Group {
                    subscription: self.subscription.clone(),
                    retry_steps: self.steps.clone(),
                    dead_letters: dead_letters.name == from.name,
                });
            }
            if dead_letters.name == *transport && (from.name != *transport || self.spec.group.is_none()) {
                all.push(Declaration::DeadLetters(self.group.clone()));
            }
        }
        all
    }

    /// The subscriptions at `origin`: the topics, and each delay step where the core keeps delays.
    pub(crate) fn subscriptions(&self, origin: &Origin) -> Vec<Subscription> {
        let mut all = vec![self.subscription.clone()];
        if self.keeps_delays(origin) {
            all.extend((1..=self.last_step()).map(|step| self.retry_subscription(step)));
        }
        all
    }

    /// Whether the core keeps the delays of this origin, each step a place of its own.
    pub(crate) fn keeps_delays(&self, origin: &Origin) -> bool {
        origin.from.transport.capabilities().delay == Delay::RetryTopics && self.spec.group.is_some()
    }

    /// The subscription to a delay step.
    pub(crate) fn retry_subscription(&self, step: u32) -> Subscription {
        let mut subscription = self.subscription.clone();
        subscription.retry_step = Some(step);
        subscription.prefetch = 1;
        subscription
    }

    /// The last delay step. Suspects and replays take the first one too, so it is read even where nothing is ever delayed.
    pub(crate) fn last_step(&self) -> u32 {
        u32::try_from(self.steps.len().max(1)).unwrap_or(u32::MAX)
    }

    /// The largest step within `delay`, from 1; the first where none is.
    pub(crate) fn retry_step(&self, delay: Duration) -> u32 {
        let at = self.steps.iter().rposition(|step| *step <= delay).unwrap_or(0);
        u32::try_from(at + 1).unwrap_or(u32::MAX)
    }

    /// Where a copy goes that is due after `delay`.
    pub(crate) fn retry_destination(&self, delay: Duration) -> Destination {
        let step = self.retry_step(delay);
        let at = usize::try_from(step - 1).unwrap_or(usize::MAX);
        let delay = self.steps.get(at).copied().unwrap_or(Duration::ZERO);
        Destination::Retry { group: self.group.clone(), step, delay }
    }

    /// Whether a subscription's pattern concerns a transport that `route` leads to.
    pub(crate) fn concerns(patterns: &[Pattern], route: &Pattern) -> bool {
        patterns.iter().any(|pattern| pattern.overlaps(route))
    }
}

/// Refuses ingest rules that would do nothing: what they make would be skipped, or they would never be asked.
fn check_ingest(spec: &HandlerSpec, patterns: &[Pattern]) -> Result<(), Error> {
    let name = &spec.name;
    for rule in &spec.ingest.0 {
        let known: Vec<&str> = spec.registrations.iter().map(Registration::name).collect();
        if !known.contains(&rule.kind.as_str()) {
            let hint = nearest(&rule.kind, known.iter().copied()).map_or_else(
                || format!("it takes {}", known.join(", ")),
                |near| format!("did you mean `{near}`?"),
            );
            return Err(Error::refused(format!(
                "handler `{name}` has an ingest rule that makes `{}` of `{}`, which it does not take; {hint}",
                rule.kind, rule.from
            )));
        }
        if !Plan::concerns(patterns, &rule.from) {
            let topics: Vec<&str> = patterns.iter().map(Pattern::as_str).collect();
            return Err(Error::refused(format!(
                "handler `{name}` has an ingest rule for `{}`, where nothing comes from; it subscribes to {}",
                rule.from,
                topics.join(", ")
            )));
        }
    }
    Ok(())
}
