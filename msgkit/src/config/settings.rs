//! The configuration of a service: transports, routes, policies, handlers, catalog.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;

use super::catalog::CatalogSettings;
use super::policy::{self, Span, policy, take_scalar, time};
use super::read::{choice, from_table, nearest, parse_table, unknown_key};
use super::{environment, ingest};
use crate::envelope::ingest::Ingest;
use crate::error::Error;
use crate::handler::PolicyOverrides;
use crate::text::Text;
use crate::topic::{Pattern, Topic};
use crate::transport::{OnUnrouted, Options, Registry, Transport, TransportUrl};

/// The top level of a configuration file.
pub(super) const SECTIONS: [&str; 7] =
    ["service", "transports", "routes", "destinations", "policies", "handlers", "catalog"];

/// What a configuration file and the environment say, read strictly; not yet joined with the handlers in code.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Settings {
    /// `[service] name`.
    pub name: Text,
    /// `[service] drain_deadline`.
    pub drain_deadline: Option<Duration>,
    /// `[transports.<name>]`, in the file's order of names.
    pub transports: Vec<TransportSettings>,
    /// `[[routes]]`: topics and the transport that carries them; the first match wins.
    pub routes: Vec<(Pattern, Text)>,
    /// `[[destinations]]`: topics and the place that they share on log brokers.
    pub destinations: Vec<(Pattern, Topic)>,
    /// `[policies.<name>]`.
    pub policies: BTreeMap<Text, PolicyOverrides>,
    /// `[handlers.<name>]`.
    pub handlers: BTreeMap<Text, HandlerSettings>,
    /// `[catalog]`.
    pub catalog: CatalogSettings,
    /// Where it was read from, for errors.
    pub(crate) origin: Text,
}

/// One transport.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct TransportSettings {
    /// Its name.
    pub name: Text,
    /// Where this stands, for errors: file and table.
    place: String,
    /// Where it is.
    pub url: TransportUrl,
    /// Its native options. Whether they are those of the kind of transport that `url` names, [`TransportSettings::build`] checks.
    pub options: Options,
    /// What the table of its native options is called, where it has one: a scheme of the kind of transport that it is.
    table: Option<String>,
    /// The transport that keeps its dead letters.
    pub dead_letters: Option<Text>,
    /// The variables of the environment that set a part of it.
    pub(crate) variables: Vec<String>,
}

impl TransportSettings {
    /// Makes the transport, without connecting.
    ///
    /// # Errors
    /// [`ErrorKind::Config`](crate::ErrorKind::Config) naming file, table and option, or the schemes that `registry` knows.
    pub fn build(&self, registry: &Registry) -> Result<Arc<dyn Transport>, Error> {
        self.check_table(registry).and_then(|()| registry.build(&self.url, self.options.clone())).map_err(
            |error| {
                let text = error.to_string();
                let is_named = |variable: &&String| {
                    let key = variable.rsplit("__").next().unwrap_or(variable);
                    text.contains(&format!("`{}`", key.to_ascii_lowercase()))
                };
                if let Some(variable) = self.variables.iter().find(is_named) {
                    return Error::config(format!("environment variable {variable} cannot be used"))
                        .with_source(error);
                }
                // An option's error begins with its table already.
                if text.starts_with(self.place.trim_end_matches(']')) {
                    return error;
                }
                Error::config(format!("{} cannot be used", self.place)).with_source(error)
            },
        )
    }

    /// `[transports.x.amqp]` holds the options of all kinds of addresses that RabbitMQ has, `amqps:` too.
    fn check_table(&self, registry: &Registry) -> Result<(), Error> {
        let scheme = self.url.scheme();
        match (&self.table, registry.names(scheme)) {
            (Some(table), [first, ..]) if !registry.names(scheme).contains(&table.as_str()) => {
                Err(Error::config(format!(
                    "{} has options of `{table}`, but its `url` is `{scheme}:`; put them under `[transports.{}.{first}]`",
                    self.place, self.name
                )))
            }
            _ => Ok(()),
        }
    }
}

/// What configuration says of one handler.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct HandlerSettings {
    /// The named policy that it uses.
    pub policy: Option<Text>,
    /// Whether it runs; it does where nothing is said.
    pub enabled: Option<bool>,
    /// The parts of the policy that are set for it alone.
    pub overrides: PolicyOverrides,
    /// `[[handlers.<name>.ingest]]`: what becomes of messages that are no events. They are tried before those in code.
    pub ingest: Ingest,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawService {
    name: String,
    #[serde(default)]
    drain_deadline: Option<Span>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRoute {
    r#match: String,
    to: String,
}

impl Settings {
    /// Reads a file and the process' environment.
    ///
    /// # Errors
    /// [`ErrorKind::Config`](crate::ErrorKind::Config) naming file, table and key, and for an unknown key the nearest known one.
    pub fn load(path: impl AsRef<Path>) -> Result<Self, Error> {
        let path = path.as_ref();
        let origin = path.display().to_string();
        let text = std::fs::read_to_string(path).map_err(|error| {
            Error::config(format!("configuration {origin} cannot be read; check the path")).with_source(error)
        })?;
        let environment = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
        let mut settings = Self::parse(&text, &origin, environment)?;
        if let Some(file) = &mut settings.catalog.namespaces {
            *file = path.parent().unwrap_or(Path::new("")).join(&*file);
        }
        Ok(settings)
    }

    /// Reads TOML that came from `origin`, with the variables of `environment` that begin with `MSGKIT__` over it.
    ///
    /// # Errors
    /// As [`Settings::load`].
    pub fn parse(
        text: &str,
        origin: &str,
        environment: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, Error> {
        let table = parse_table(text, origin)?;
        let variables = environment::variables(environment);
        let with = |variables: &[(String, String)]| -> Result<Self, Error> {
            let mut table = table.clone();
            environment::apply(&mut table, variables)?;
            let mut settings = Self::read(table, origin)?;
            for transport in &mut settings.transports {
                transport.variables = environment::of_transport(variables, &transport.name);
            }
            Ok(settings)
        };
        with(&variables).map_err(|error| {
            // The one without which all is well is wrong: the file is not to be blamed for it.
            let is_wrong = |(name, _): &&(String, String)| {
                let others: Vec<_> = variables.iter().filter(|(other, _)| other != name).cloned().collect();
                with(&others).is_ok()
            };
            match variables.iter().find(is_wrong) {
                Some((name, _)) if !error.to_string().starts_with("environment variable") => {
                    Error::config(format!("environment variable {name} cannot be used")).with_source(error)
                }
                _ => error,
            }
        })
    }

    fn read(table: toml::Table, origin: &str) -> Result<Self, Error> {
        if let Some(key) = table.keys().find(|key| !SECTIONS.contains(&key.as_str())) {
            return Err(unknown_key(origin, key, SECTIONS));
        }
        let mut sections = Sections { origin, table };
        let service: RawService = match sections.table("service")? {
            Some(table) => from_table(table, &sections.place("[service]"))?,
            None => {
                return Err(Error::config(format!(
                    "{origin} has no `[service]`; write `[service]` and `name = \"…\"`"
                )));
            }
        };
        let settings = Self {
            name: service.name.into(),
            drain_deadline: time(service.drain_deadline),
            transports: sections.transports()?,
            routes: sections.routes()?,
            destinations: sections.destinations()?,
            policies: sections.policies()?,
            handlers: sections.handlers()?,
            catalog: sections.table("catalog")?.map_or_else(
                || Ok(CatalogSettings::default()),
                |table| CatalogSettings::read(table, &sections.place("[catalog]")),
            )?,
            origin: origin.into(),
        };
        settings.check_references(origin)?;
        Ok(settings)
    }

    /// Every name that refers to a transport must exist, and no route may be out of reach. Policies may be named in code.
    fn check_references(&self, origin: &str) -> Result<(), Error> {
        let names: Vec<&str> = self.transports.iter().map(|transport| transport.name.as_str()).collect();
        let known = |name: &Text, place: String| {
            if names.contains(&name.as_str()) {
                return Ok(());
            }
            let hint = nearest(name, names.iter().copied()).map_or_else(
                || format!("there are {}", names.join(", ")),
                |near| format!("did you mean `{near}`?"),
            );
            Err(Error::config(format!("{origin}: {place} names the unknown transport `{name}`; {hint}")))
        };
        for (at, (pattern, to)) in self.routes.iter().enumerate() {
            known(to, format!("the route of `{pattern}`"))?;
            if let Some((before, _)) = self.routes[..at].iter().find(|(before, _)| before.contains(pattern)) {
                return Err(Error::config(format!(
                    "{origin}: the route of `{pattern}` is never reached, because `{before}` before it takes everything; \
                     put the narrower one first"
                )));
            }
        }
        if self.transports.len() > 1 && !self.routes.iter().any(|(pattern, _)| pattern.as_str() == ">") {
            // Of two names that are alike one mostly is a slip.
            let slip = names.iter().find_map(|name| {
                let others = names.iter().copied().filter(|other| other != name);
                nearest(name, others).map(|near| format!("; or are `{name}` and `{near}` one?"))
            });
            return Err(Error::config(format!(
                "{origin} has several transports and no route for the rest; end with `[[routes]] match = \">\" to = \"…\"`{}",
                slip.unwrap_or_default()
            )));
        }
        for transport in &self.transports {
            if let Some(at) = &transport.dead_letters {
                known(at, format!("`[transports.{}] dead_letters`", transport.name))?;
            }
        }
        Ok(())
    }
}

/// A configuration's tables, taken out one by one.
struct Sections<'a> {
    origin: &'a str,
    table: toml::Table,
}

impl Sections<'_> {
    fn place(&self, of: &str) -> String {
        format!("{}: {of}", self.origin)
    }

    fn table(&mut self, name: &str) -> Result<Option<toml::Table>, Error> {
        match self.table.remove(name) {
            None => Ok(None),
            Some(toml::Value::Table(table)) => Ok(Some(table)),
            Some(_) => Err(Error::config(format!("{} must be a table", self.place(&format!("[{name}]"))))),
        }
    }

    /// The tables below `[name.<key>]`.
    fn named(&mut self, name: &str) -> Result<Vec<(String, toml::Table)>, Error> {
        let Some(table) = self.table(name)? else { return Ok(Vec::new()) };
        table
            .into_iter()
            .map(|(key, value)| match value {
                toml::Value::Table(table) => Ok((key, table)),
                _ => Err(Error::config(format!(
                    "{} must be a table: write `[{name}.{key}]`",
                    self.place(&format!("`{name}.{key}`"))
                ))),
            })
            .collect()
    }

    /// The tables of `[[name]]`.
    fn list(&mut self, name: &str) -> Result<Vec<toml::Table>, Error> {
        match self.table.remove(name) {
            None => Ok(Vec::new()),
            Some(toml::Value::Array(values)) => values
                .into_iter()
                .map(|value| match value {
                    toml::Value::Table(table) => Ok(table),
                    _ => {
                        Err(Error::config(format!("{} must hold tables", self.place(&format!("[[{name}]]")))))
                    }
                })
                .collect(),
            Some(_) => Err(Error::config(format!(
                "{} is a list: write `[[{name}]]`",
                self.place(&format!("`{name}`"))
            ))),
        }
    }

    fn transports(&mut self) -> Result<Vec<TransportSettings>, Error> {
        let mut all = Vec::new();
        for (name, mut table) in self.named("transports")? {
            let place = self.place(&format!("[transports.{name}]"));
            let url = take_scalar::<String>(&mut table, "url", &place)?.ok_or_else(|| {
                Error::config(format!(
                    "{place} has no `url`; write `url = \"memory://\"` or the broker's address"
                ))
            })?;
            let url = TransportUrl::parse(&url)
                .map_err(|error| Error::config(format!("{place} has a bad `url`")).with_source(error))?;
            let dead_letters = take_scalar::<String>(&mut table, "dead_letters", &place)?.map(Text::from);
            let on_unrouted = take_scalar::<String>(&mut table, "on_unrouted", &place)?
                .map(|text| {
                    let known = [OnUnrouted::Accept, OnUnrouted::Error].map(|known| (known.as_str(), known));
                    choice(&place, "on_unrouted", &text, &known)
                })
                .transpose()?;
            // An address may have a scheme that is no bare key of TOML: `mqtt+ws`.
            let usual = url.scheme().split('+').next().unwrap_or_default().to_owned();
            if let Some((key, _)) = table.iter().find(|(_, value)| !value.is_table()) {
                let hint = nearest(key, ["url", "dead_letters", "on_unrouted"]).map_or_else(
                    || format!("a transport's own options go under `[transports.{name}.{usual}]`"),
                    |near| format!("did you mean `{near}`?"),
                );
                return Err(Error::config(match key == url.scheme() {
                    true => format!("{place}: `{key}` must be a table"),
                    false => format!("{place} has the unknown key `{key}`; {hint}"),
                }));
            }
            let mut tables = table.into_iter();
            let (key, native) = match tables.next() {
                Some((key, toml::Value::Table(native))) => (Some(key), native),
                _ => (None, toml::Table::new()),
            };
            if let (Some(key), Some((other, _))) = (&key, tables.next()) {
                return Err(Error::config(format!(
                    "{place} has options of `{key}` and of `{other}`, and one `url`; put them into one table"
                )));
            }
            let shown = key.as_ref().unwrap_or(&usual);
            let mut options =
                Options::from_table(self.place(&format!("[transports.{name}.{shown}]")), native);
            if let Some(on_unrouted) = on_unrouted {
                options = options.with_on_unrouted(on_unrouted);
            }
            all.push(TransportSettings {
                name: name.into(),
                place,
                url,
                options,
                table: key,
                dead_letters,
                variables: Vec::new(),
            });
        }
        Ok(all)
    }

    fn routes(&mut self) -> Result<Vec<(Pattern, Text)>, Error> {
        let place = self.place("[[routes]]");
        self.list("routes")?
            .into_iter()
            .map(|table| {
                let route: RawRoute = from_table(table, &place)?;
                let pattern = Pattern::new(route.r#match).map_err(|error| {
                    Error::config(format!("{place} has a bad `match`")).with_source(error)
                })?;
                Ok((pattern, Text::from(route.to)))
            })
            .collect()
    }

    fn destinations(&mut self) -> Result<Vec<(Pattern, Topic)>, Error> {
        let place = self.place("[[destinations]]");
        self.list("destinations")?
            .into_iter()
            .map(|table| {
                let destination: RawRoute = from_table(table, &place)?;
                let bad = |key: &str, error: Error| {
                    Error::config(format!("{place} has a bad `{key}`")).with_source(error)
                };
                let pattern = Pattern::new(destination.r#match).map_err(|error| bad("match", error))?;
                let to = Topic::new(destination.to).map_err(|error| bad("to", error))?;
                Ok((pattern, to))
            })
            .collect()
    }

    fn policies(&mut self) -> Result<BTreeMap<Text, PolicyOverrides>, Error> {
        self.named("policies")?
            .into_iter()
            .map(|(name, table)| {
                let overrides = policy(table, &self.place(&format!("[policies.{name}]")))?;
                Ok((Text::from(name), overrides))
            })
            .collect()
    }

    fn handlers(&mut self) -> Result<BTreeMap<Text, HandlerSettings>, Error> {
        self.named("handlers")?
            .into_iter()
            .map(|(name, mut table)| {
                let place = self.place(&format!("[handlers.{name}]"));
                let (named, enabled) = (
                    take_scalar::<String>(&mut table, "policy", &place)?.map(Text::from),
                    take_scalar::<bool>(&mut table, "enabled", &place)?,
                );
                let ingest = ingest::take(&mut table, &self.place(&format!("[[handlers.{name}.ingest]]")))?;
                // The rest is a policy's, whose error would know only the keys of one.
                if let Some(key) = table.keys().find(|key| !policy::KEYS.contains(&key.as_str())) {
                    let own = ["policy", "enabled", "ingest"];
                    return Err(unknown_key(&place, key, own.into_iter().chain(policy::KEYS)));
                }
                let overrides = policy(table, &place)?;
                let settings = HandlerSettings { policy: named, enabled, overrides, ingest };
                Ok((Text::from(name), settings))
            })
            .collect()
    }
}
