//! How a handler is run: what code, configuration and the service's own slots say of it, put together.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use super::plan::{Named, Origin, Plan};
use super::publish::Routes;
use crate::config::HandlerSettings;
use crate::error::Error;
use crate::handler::{HandlerSpec, Inbox, PolicyOverrides, UnitOfWork};
use crate::policy::Policy;
use crate::text::Text;
use crate::topic::{Pattern, Topic};
use crate::transport::Group;

/// What configuration says of policies and handlers.
#[derive(Clone, Default)]
pub(super) struct Configured {
    /// The file, where there is one.
    pub(super) origin: Option<Text>,
    /// The transports that it names, each with the variables of the environment that set a part of it.
    pub(super) transports: BTreeMap<Text, Vec<String>>,
    /// `[[destinations]]`.
    pub(super) destinations: Vec<(Pattern, Topic)>,
    pub(super) policies: BTreeMap<Text, PolicyOverrides>,
    pub(super) handlers: BTreeMap<Text, HandlerSettings>,
}

impl Configured {
    /// Whether the handler runs.
    pub(super) fn is_enabled(&self, spec: &HandlerSpec) -> bool {
        self.handlers.get(&spec.name).and_then(|handler| handler.enabled) != Some(false)
    }

    /// Refuses a transport that nothing uses: mostly its name is misspelt.
    pub(super) fn check_used(&self, used: impl Fn(&Text) -> bool) -> Result<(), Error> {
        let Some((unused, variables)) = self.transports.iter().find(|(name, _)| !used(name)) else {
            return Ok(());
        };
        let others = self.transports.keys().filter(|name| *name != unused).map(Text::as_str);
        let hint = crate::config::nearest(unused, others).map_or_else(
            || "add a route to it, or remove it".to_owned(),
            |near| format!("did you mean `{near}`?"),
        );
        let error =
            Error::config(format!("[transports.{unused}] is used by no route and no `dead_letters`; {hint}"));
        Err(match variables.first() {
            Some(variable) => {
                Error::config(format!("environment variable {variable} cannot be used")).with_source(error)
            }
            None => self.blame(error),
        })
    }

    /// An error that a key cures, told where that key stands.
    pub(super) fn blame(&self, error: Error) -> Error {
        match &self.origin {
            Some(origin) => error.within(origin),
            None => error,
        }
    }
}

/// Resolves a handler to the way in which it is run.
#[derive(Clone)]
pub(crate) struct Resolver {
    pub(super) service: Group,
    pub(super) transports: Vec<Named>,
    pub(super) routes: Routes,
    pub(super) dead_letters: BTreeMap<Text, Named>,
    pub(super) policies: BTreeMap<Text, Policy>,
    pub(super) configured: Configured,
    pub(super) inbox: Option<Arc<dyn Inbox>>,
    pub(super) unit: Option<Arc<dyn UnitOfWork>>,
}

impl Resolver {
    /// How `spec` is run beside the handlers of `others`.
    pub(super) fn plan<'a>(
        &self,
        mut spec: HandlerSpec,
        mut others: impl Iterator<Item = &'a Plan> + Clone,
    ) -> Result<Plan, Error> {
        spec.inbox = spec.inbox.or_else(|| self.inbox.clone());
        spec.unit = spec.unit.or_else(|| self.unit.clone());
        if let Some(configured) = self.configured.handlers.get(&spec.name) {
            spec.ingest.0.splice(0..0, configured.ingest.0.iter().cloned());
        }
        let plan = self.alone(spec)?;
        if let Some(other) = others.clone().find(|other| other.identity.handler == plan.identity.handler) {
            return Err(Error::refused(format!(
                "two handlers are named `{}`; give one another name",
                other.identity.handler
            )));
        }
        if plan.spec.group.is_some()
            && let Some(other) = others.find(|other| other.spec.group == plan.spec.group)
        {
            return Err(Error::refused(format!(
                "handlers `{}` and `{}` share the group `{}`, so each would miss what the other takes; give each a \
                 group, or put their messages into one handler",
                other.identity.handler, plan.identity.handler, plan.group
            )));
        }
        Ok(plan)
    }

    fn alone(&self, spec: HandlerSpec) -> Result<Plan, Error> {
        let policy = self.policy(&spec)?;
        let patterns: Vec<Pattern> = if spec.patterns.is_empty() {
            spec.registrations
                .iter()
                .map(|registration| Ok(registration.template()?.pattern()))
                .collect::<Result<_, Error>>()?
        } else {
            spec.patterns.clone()
        };
        let mut origins: Vec<Origin> = Vec::new();
        for route in self.routes.0.iter().filter(|route| Plan::concerns(&patterns, &route.pattern)) {
            if origins.iter().any(|origin| origin.from.name == route.name) {
                continue;
            }
            let from = Named { name: route.name.clone(), transport: route.transport.clone(), shared: true };
            let dead_letters = self.dead_letters.get(&route.name).cloned().unwrap_or_else(|| from.clone());
            origins.push(Origin { from, dead_letters });
            // A route that takes everything the handler wants leaves nothing for those behind it.
            if patterns.iter().all(|pattern| route.pattern.contains(pattern)) {
                break;
            }
        }
        policy.check().map_err(|error| {
            let refused = Error::refused(format!("the policy of handler `{}` cannot be used", spec.name));
            self.configured.blame(refused.with_source(error))
        })?;
        let plan = Plan::new(&self.service, spec, policy, origins)?;
        plan.check().map_err(|error| self.configured.blame(error))?;
        Ok(plan)
    }

    /// Precedence, weakest first: the policy in code, the derive, `[policies]`, `[handlers.<name>]`.
    fn policy(&self, spec: &HandlerSpec) -> Result<Policy, Error> {
        let handler = self.configured.handlers.get(&spec.name);
        let named = handler.and_then(|handler| handler.policy.as_ref()).or(spec.policy.as_ref());
        let name = named.map_or("default", Text::as_str);
        let (in_code, configured) = (self.policies.get(name), self.configured.policies.get(name));
        if name != "default" && in_code.is_none() && configured.is_none() {
            let named = self.policies.keys().chain(self.configured.policies.keys()).map(Text::as_str);
            let known: BTreeSet<&str> = named.chain(["default"]).collect();
            let hint = crate::config::nearest(name, known.iter().copied()).map_or_else(
                || format!("known are {}", Vec::from_iter(known).join(", ")),
                |near| format!("did you mean `{near}`?"),
            );
            return Err(self.configured.blame(Error::config(format!(
                "handler `{}` names the unknown policy `{name}`; {hint}",
                spec.name
            ))));
        }
        let mut policy = in_code.cloned().unwrap_or_default();
        spec.overrides.apply(&mut policy);
        if let Some(configured) = configured {
            configured.apply(&mut policy);
        }
        if let Some(handler) = handler {
            handler.overrides.apply(&mut policy);
        }
        Ok(policy)
    }
}

impl fmt::Debug for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Resolver").field("service", &self.service).finish_non_exhaustive()
    }
}
