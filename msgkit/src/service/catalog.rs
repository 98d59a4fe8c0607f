//! What a service says of itself to the catalog, and which rules it has to keep.

use super::Service;
use crate::catalog::{Catalog, Day, Finding, HandlerEntry, Level, MessageType, Rules, load_namespaces};
use crate::config::CatalogSettings;
use crate::error::Error;
use crate::text::Text;
use crate::topic::Namespace;

/// The part of a service that only its catalog needs.
#[derive(Debug, Default)]
pub(super) struct Governed {
    component: Option<Text>,
    /// Name and topic of what is published outside of handlers.
    pub(super) publishes: Vec<(&'static str, &'static str)>,
    namespaces: Vec<Namespace>,
    rules: Rules,
}

impl Governed {
    pub(super) fn configure(&mut self, settings: CatalogSettings) -> Result<(), Error> {
        self.component = settings.component;
        if let Some(file) = settings.namespaces {
            self.namespaces = load_namespaces(file)?;
        }
        self.rules = settings.rules;
        Ok(())
    }
}

impl Service {
    /// Says which component of the catalog the service is, `service_platform.core.event_rule`; its name where nothing is
    /// said. Handlers that name a component of their own belong to that.
    pub fn component(mut self, name: impl Into<Text>) -> Self {
        self.governed.component = Some(name.into());
        self
    }

    /// Declares namespaces; [`Service::check`] holds the service against them.
    pub fn namespaces(mut self, namespaces: impl IntoIterator<Item = Namespace>) -> Self {
        self.governed.namespaces.extend(namespaces);
        self
    }

    /// The rules that [`Service::check`] holds the service against; [`Rules::default`] where nothing is said.
    pub fn rules(mut self, rules: Rules) -> Self {
        self.governed.rules = rules;
        self
    }

    /// The service's own part of the catalog, made from what it registers: handlers that run, what they take, return and
    /// say that they publish, and what the service publishes outside of them. [`Catalog::merge`] makes a system of several.
    ///
    /// # Errors
    /// What is wrong with a handler or a topic, as [`Service::check`] would say.
    pub fn catalog(&self) -> Result<Catalog, Error> {
        if let Some(problem) = self.problems.first() {
            return Err(Error::new(problem.kind(), problem.to_string()));
        }
        let component = self.governed.component.as_ref().unwrap_or(&self.name);
        let mut catalog = Catalog::new().component(component.clone());
        for namespace in &self.governed.namespaces {
            catalog = catalog.namespace(namespace.clone());
        }
        for declared in &self.governed.publishes {
            catalog = catalog.publishes(component.clone(), MessageType::declared(*declared)?);
        }
        for spec in self.handlers.iter().filter(|spec| self.configured.is_enabled(spec)) {
            let of = spec.component.as_ref().unwrap_or(component);
            let mut entry = HandlerEntry::new(of.clone(), spec.name.clone());
            if let Some(group) = &spec.group {
                entry = entry.group(group.text().clone());
            }
            for registration in &spec.registrations {
                entry = entry.takes(MessageType::declared((registration.name, registration.template))?);
            }
            for declared in spec.published() {
                entry = entry.publishes(MessageType::declared(declared)?);
            }
            for pattern in &spec.patterns {
                entry = entry.subscribes(pattern.clone());
            }
            catalog = catalog.handler(entry);
        }
        Ok(catalog)
    }

    /// What the rules warn of and what they deny.
    pub(super) fn findings(&self) -> Result<Vec<Finding>, Error> {
        Ok(self.catalog()?.check(&self.governed.rules, Day::from(self.clock.now())))
    }

    /// What the rules warn of.
    pub(super) fn warnings(&self) -> Result<Vec<Finding>, Error> {
        let (denied, warned): (Vec<_>, Vec<_>) =
            self.findings()?.into_iter().partition(|finding| finding.level == Level::Deny);
        if denied.is_empty() {
            return Ok(warned);
        }
        let denied: Vec<String> = denied.iter().map(ToString::to_string).collect();
        Err(Error::refused(format!(
            "service `{}` breaks rules of the catalog: {}",
            self.name,
            denied.join(" · ")
        )))
    }
}
