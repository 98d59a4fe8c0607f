//! What a system consists of, known before it runs: components, namespaces, messages, handlers, and who sends what to whom.
//!
//! A [`Catalog`] is made by [`Service::catalog`](crate::Service::catalog) from what the code registers, by hand, or of
//! several with [`Catalog::merge`]. [`Catalog::check`] holds it against [`Rules`]; [`Catalog::to_d2`] and
//! [`Catalog::to_mermaid`] draw it. Nothing here connects to anything, and nothing here is in the way of a message.

mod d2;
mod day;
mod drawing;
mod entry;
mod graph;
mod mermaid;
mod namespaces;
mod rules;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

pub use self::day::Day;
pub use self::entry::{Call, HandlerEntry, Link, MessageType};
pub use self::namespaces::{load as load_namespaces, parse as parse_namespaces};
pub use self::rules::{Finding, Level, Rule, Rules, Waiver};
use crate::error::Error;
use crate::text::Text;
use crate::topic::Namespace;

/// Components, namespaces, messages, handlers and links of a service or of a system.
///
/// Components have dotted names, `service_platform.core.event_rule`, and so form a tree. Links by message are not written
/// down: they follow from who publishes and who takes a type.
///
/// ```
/// use msgkit::catalog::{Catalog, HandlerEntry, MessageType, Rules};
///
/// let placed = MessageType::new("orders.placed", "orders.{order_id}")?;
/// let catalog = Catalog::new()
///     .external("any HTTP client")
///     .call("any HTTP client", "shop.gateway", "POST /orders")
///     .publishes("shop.gateway", placed.clone())
///     .handler(HandlerEntry::new("shop.shipping", "ship").group("shipping").takes(placed));
///
/// let links = catalog.links();
/// assert_eq!(links[0].to_string(), "shop.gateway -> shop.shipping: orders.placed");
/// assert!(catalog.check(&Rules::default(), "2026-01-31".parse()?).is_empty());
/// assert!(catalog.to_d2().contains("shop.gateway -> shop.shipping"));
/// # Ok::<(), msgkit::Error>(())
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Catalog {
    /// Every component, and whether it is an external one.
    components: BTreeMap<Text, bool>,
    namespaces: BTreeMap<Text, Namespace>,
    handlers: BTreeMap<(Text, Text), HandlerEntry>,
    /// What components publish outside of handlers.
    publishes: BTreeSet<(Text, MessageType)>,
    calls: BTreeSet<Call>,
}

impl Catalog {
    /// A catalog of nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a component; those that publish, handle or call need not be added.
    #[must_use]
    pub fn component(mut self, name: impl Into<Text>) -> Self {
        self.components.entry(name.into()).or_default();
        self
    }

    /// Adds somebody outside of the system; the name is free text, "any HTTP client".
    #[must_use]
    pub fn external(mut self, name: impl Into<Text>) -> Self {
        self.components.insert(name.into(), true);
        self
    }

    /// Adds a namespace; one of the same prefix is replaced.
    #[must_use]
    pub fn namespace(mut self, namespace: Namespace) -> Self {
        self.namespaces.insert(namespace.prefix.text().clone(), namespace);
        self
    }

    /// Says that `component` publishes `message`, not because of another message.
    #[must_use]
    pub fn publishes(mut self, component: impl Into<Text>, message: MessageType) -> Self {
        let component = component.into();
        self.components.entry(component.clone()).or_default();
        self.publishes.insert((component, message));
        self
    }

    /// Adds a handler; what one of the same component and name takes and publishes is added to it.
    #[must_use]
    pub fn handler(mut self, handler: HandlerEntry) -> Self {
        self.components.entry(handler.component.clone()).or_default();
        let key = (handler.component.clone(), handler.name.clone());
        match self.handlers.entry(key) {
            std::collections::btree_map::Entry::Vacant(free) => {
                free.insert(handler);
            }
            std::collections::btree_map::Entry::Occupied(mut taken) => taken.get_mut().join(handler),
        }
        self
    }

    /// Says that `from` calls `to`: HTTP, a database, whatever is no message.
    #[must_use]
    pub fn call(mut self, from: impl Into<Text>, to: impl Into<Text>, what: impl Into<Text>) -> Self {
        let call = Call { from: from.into(), to: to.into(), what: what.into() };
        self.components.entry(call.from.clone()).or_default();
        self.components.entry(call.to.clone()).or_default();
        self.calls.insert(call);
        self
    }

    /// Both in one: the catalog of a system out of those of its services.
    ///
    /// # Errors
    /// [`ErrorKind::Refused`](crate::ErrorKind::Refused) where the two contradict each other: one handler in two groups, or
    /// one namespace that is declared in two ways.
    pub fn merge(mut self, other: Self) -> Result<Self, Error> {
        for (key, handler) in &other.handlers {
            if let Some(mine) = self.handlers.get(key)
                && mine.group != handler.group
            {
                let group = |entry: &HandlerEntry| {
                    entry
                        .group
                        .as_ref()
                        .map_or_else(|| "no group".to_owned(), |group| format!("group `{group}`"))
                };
                return Err(Error::refused(format!(
                    "handler `{}` of component `{}` is in {} and in {}; give one of them another name",
                    handler.name,
                    handler.component,
                    group(mine),
                    group(handler)
                )));
            }
        }
        for (prefix, namespace) in other.namespaces {
            if self.namespaces.get(&prefix).is_some_and(|mine| *mine != namespace) {
                return Err(Error::refused(format!(
                    "namespace `{prefix}` is declared in two ways; keep it in one file that all services read"
                )));
            }
            self.namespaces.insert(prefix, namespace);
        }
        for (component, external) in other.components {
            *self.components.entry(component).or_default() |= external;
        }
        self.publishes.extend(other.publishes);
        self.calls.extend(other.calls);
        Ok(other.handlers.into_values().fold(self, Self::handler))
    }

    /// The components, external ones too, by name.
    pub fn components(&self) -> impl Iterator<Item = &str> {
        self.components.keys().map(Text::as_str)
    }

    /// Whether `component` is known, and outside of the system.
    #[must_use]
    pub fn is_external(&self, component: &str) -> bool {
        self.components.get(component).copied().unwrap_or_default()
    }

    /// The declared namespaces, by prefix.
    pub fn namespaces(&self) -> impl Iterator<Item = &Namespace> {
        self.namespaces.values()
    }

    /// The handlers, by component and name.
    pub fn handlers(&self) -> impl Iterator<Item = &HandlerEntry> {
        self.handlers.values()
    }

    /// The calls, by caller.
    pub fn calls(&self) -> impl Iterator<Item = &Call> {
        self.calls.iter()
    }

    /// Every message type that is published or taken, by name.
    #[must_use]
    pub fn messages(&self) -> BTreeSet<&MessageType> {
        let handled =
            self.handlers.values().flat_map(|handler| handler.takes.iter().chain(&handler.publishes));
        self.publishes.iter().map(|(_, message)| message).chain(handled).collect()
    }

    /// Who publishes what: the component, the handler that does where there is one, and the message.
    pub fn publications(&self) -> impl Iterator<Item = (&str, Option<&HandlerEntry>, &MessageType)> {
        let outside = self.publishes.iter().map(|(component, message)| (component.as_str(), None, message));
        let by_handlers = self.handlers.values().flat_map(|handler| {
            handler.publishes.iter().map(move |message| (handler.component.as_str(), Some(handler), message))
        });
        outside.chain(by_handlers)
    }

    /// Who sends what to whom by message, sorted: each publisher with each handler of what it publishes.
    #[must_use]
    pub fn links(&self) -> Vec<Link> {
        let mut links = BTreeSet::new();
        for (from, _, message) in self.publications() {
            for handler in self.handlers.values().filter(|handler| handler.hears(message)) {
                links.insert(Link {
                    from: from.into(),
                    to: handler.component.clone(),
                    topic: message.topic.clone(),
                    message: message.name.clone(),
                    handler: handler.name.clone(),
                });
            }
        }
        links.into_iter().collect()
    }

    /// What is published and has no handler here: component and message.
    #[must_use]
    pub fn unheard(&self) -> BTreeSet<(&str, &MessageType)> {
        self.publications()
            .filter(|(_, _, message)| !self.handlers.values().any(|handler| handler.hears(message)))
            .map(|(component, _, message)| (component, message))
            .collect()
    }

    /// What is handled and has no publisher here: component and message.
    #[must_use]
    pub fn unsent(&self) -> BTreeSet<(&str, &MessageType)> {
        let sent: Vec<&MessageType> = self.publications().map(|(_, _, message)| message).collect();
        self.handlers
            .values()
            .flat_map(|handler| handler.takes.iter().map(move |message| (handler, message)))
            .filter(|(handler, taken)| {
                !sent.iter().any(|message| message.name == taken.name && handler.hears(message))
            })
            .map(|(handler, message)| (handler.component.as_str(), message))
            .collect()
    }

    /// The declared namespace of a topic: the longest prefix wins.
    #[must_use]
    pub fn namespace_of(&self, message: &MessageType) -> Option<&Namespace> {
        self.namespaces
            .values()
            .filter(|namespace| namespace.contains(&message.topic))
            .max_by_key(|namespace| namespace.prefix.as_str().len())
    }

    /// What breaks `rules`, on the day `today`: worst first.
    #[must_use]
    pub fn check(&self, rules: &Rules, today: Day) -> Vec<Finding> {
        rules::check(self, rules, today)
    }

    /// The catalog as a [D2](https://d2lang.com) diagram; the same catalog always gives the same text.
    #[must_use]
    pub fn to_d2(&self) -> String {
        d2::write(self)
    }

    /// The catalog as a [Mermaid](https://mermaid.js.org) flowchart; the same catalog always gives the same text.
    #[must_use]
    pub fn to_mermaid(&self) -> String {
        mermaid::write(self)
    }
}
