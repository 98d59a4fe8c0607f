//! `[catalog]`: the service's component, the namespaces file, and the rules.

use std::path::PathBuf;

use serde::Deserialize;

use super::read::{choice, from_table};
use crate::catalog::{Level, Rule, Rules, Waiver};
use crate::error::Error;
use crate::text::Text;

/// What configuration says of the catalog.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct CatalogSettings {
    /// The component that the service is.
    pub component: Option<Text>,
    /// The namespaces file; beside the configuration file where it is relative.
    pub namespaces: Option<PathBuf>,
    /// The rules.
    pub rules: Rules,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    component: Option<String>,
    namespaces: Option<PathBuf>,
    rules: Option<toml::Table>,
    #[serde(default)]
    waivers: Vec<toml::Table>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRules {
    undeclared_namespace: Option<String>,
    forbidden_publisher: Option<String>,
    forbidden_consumer: Option<String>,
    cycle: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawWaiver {
    rule: String,
    subject: String,
    reason: String,
    /// Text, or TOML's own date.
    expires: toml::Value,
}

impl CatalogSettings {
    pub(super) fn read(table: toml::Table, place: &str) -> Result<Self, Error> {
        let raw: Raw = from_table(table, place)?;
        let mut rules = Rules::default();
        if let Some(table) = raw.rules {
            let place = format!("{place} rules");
            let raw_rules: RawRules = from_table(table, &place)?;
            for (rule, level) in [
                (Rule::UndeclaredNamespace, raw_rules.undeclared_namespace),
                (Rule::ForbiddenPublisher, raw_rules.forbidden_publisher),
                (Rule::ForbiddenConsumer, raw_rules.forbidden_consumer),
                (Rule::Cycle, raw_rules.cycle),
            ] {
                let Some(level) = level else { continue };
                if rule != Rule::Cycle && raw.namespaces.is_none() {
                    return Err(Error::config(format!(
                        "{place}: `{}` says nothing without namespaces; set `namespaces = \"namespaces.toml\"` in `[catalog]`",
                        rule.as_str()
                    )));
                }
                let levels = Level::ALL.map(|level| (level.as_str(), level));
                rules = rules.with(rule, choice(&place, rule.as_str(), &level, &levels)?);
            }
        }
        for table in raw.waivers {
            rules = rules.waive(waiver(table, &place.replace("[catalog]", "[[catalog.waivers]]"))?);
        }
        Ok(Self { component: raw.component.map(Text::from), namespaces: raw.namespaces, rules })
    }
}

fn waiver(table: toml::Table, place: &str) -> Result<Waiver, Error> {
    let raw: RawWaiver = from_table(table, place)?;
    let rule = choice(place, "rule", &raw.rule, &Rule::ALL.map(|rule| (rule.as_str(), rule)))?;
    if raw.reason.trim().is_empty() {
        return Err(Error::config(format!(
            "{place}: the waiver for `{}` has no `reason`; say why",
            raw.subject
        )));
    }
    let expires = match &raw.expires {
        toml::Value::String(text) => text.clone(),
        toml::Value::Datetime(date) => date.to_string(),
        other => other.type_str().to_owned(),
    };
    let expires = expires
        .parse()
        .map_err(|error: Error| Error::config(format!("{place}: `expires` is no date")).with_source(error))?;
    Ok(Waiver::new(rule, raw.subject, raw.reason, expires))
}
