//! The namespaces file: one for all services of a system, read strictly.
//!
//! ```toml
//! [namespaces.device]
//! team = "edge"
//! purpose = "what devices say"
//! class = "edge"
//! publishers = ["device.hw", "service_platform.api_gateway"]
//!
//! [namespaces.service_platform.core]      # the prefix `service_platform.core`
//! team = "platform"
//! purpose = "decisions"
//! class = "business_process"
//! ```

use std::path::Path;

use serde::Deserialize;

use crate::config::{choice, from_table, parse_table, unknown_key};
use crate::error::Error;
use crate::text::Text;
use crate::topic::{Namespace, NamespaceClass};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    team: String,
    purpose: String,
    class: String,
    #[serde(default)]
    publishers: Vec<String>,
    #[serde(default)]
    consumers: Vec<String>,
}

const CLASSES: [NamespaceClass; 4] =
    [NamespaceClass::Edge, NamespaceClass::Gateway, NamespaceClass::BusinessProcess, NamespaceClass::Data];

/// Reads the namespaces file at `path`.
///
/// # Errors
/// [`ErrorKind::Config`](crate::ErrorKind::Config) naming file, namespace and key, and for an unknown key the nearest known one.
pub fn load(path: impl AsRef<Path>) -> Result<Vec<Namespace>, Error> {
    let path = path.as_ref();
    let origin = path.display().to_string();
    let text = std::fs::read_to_string(path).map_err(|error| {
        Error::config(format!("the namespaces file {origin} cannot be read; check `[catalog] namespaces`"))
            .with_source(error)
    })?;
    parse(&text, &origin)
}

/// Reads namespaces from TOML that came from `origin`.
///
/// # Errors
/// As [`load`].
pub fn parse(text: &str, origin: &str) -> Result<Vec<Namespace>, Error> {
    let mut all = Vec::new();
    for (key, value) in parse_table(text, origin)? {
        match value {
            toml::Value::Table(table) if key == "namespaces" => {
                for (prefix, value) in table {
                    read(&prefix, value, origin, &mut all)?;
                }
            }
            _ if key == "namespaces" => {
                return Err(Error::config(format!(
                    "{origin}: write `[namespaces.<prefix>]`, a table for each"
                )));
            }
            _ => return Err(unknown_key(origin, &key, ["namespaces"])),
        }
    }
    Ok(all)
}

/// Reads the namespace `prefix` and those below it: a table in it is the next segment.
fn read(prefix: &str, value: toml::Value, origin: &str, all: &mut Vec<Namespace>) -> Result<(), Error> {
    let place = format!("{origin}: [namespaces.{prefix}]");
    let toml::Value::Table(table) = value else {
        return Err(Error::config(format!("{place} must be a table with `team`, `purpose` and `class`")));
    };
    let (below, own): (Vec<_>, Vec<_>) = table.into_iter().partition(|(_, value)| value.is_table());
    let own: toml::Table = own.into_iter().collect();
    if !own.is_empty() || below.is_empty() {
        let raw: Raw = from_table(own, &place)?;
        let class = choice(&place, "class", &raw.class, &CLASSES.map(|class| (class.as_str(), class)))?;
        let mut namespace = Namespace::new(prefix, raw.team, raw.purpose, class)
            .map_err(|error| Error::config(format!("{place} is no topic's beginning")).with_source(error))?;
        namespace.publishers = raw.publishers.into_iter().map(Text::from).collect();
        namespace.consumers = raw.consumers.into_iter().map(Text::from).collect();
        if all.iter().any(|other: &Namespace| other.prefix == namespace.prefix) {
            return Err(Error::config(format!("{place} is there twice, quoted and not; keep one")));
        }
        all.push(namespace);
    }
    for (segment, value) in below {
        read(&format!("{prefix}.{segment}"), value, origin, all)?;
    }
    Ok(())
}
