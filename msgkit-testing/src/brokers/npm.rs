//! Stand-ins that are packages of npm.

use std::path::{Path, PathBuf};

use super::error::BrokerError;
use super::system::find;

/// A package, and the node that runs it.
#[derive(Debug)]
pub(super) struct Package {
    pub(super) node: PathBuf,
    /// Its directory.
    pub(super) directory: PathBuf,
    /// Its name with its version, for the table of guarantees.
    pub(super) version: String,
}

impl Package {
    /// The package `name` whose main file is `main`: below what `variable` names, where `make brokers` puts it, or of a global
    /// installation.
    pub(super) fn find(name: &'static str, main: &str, variable: &str) -> Result<Self, BrokerError> {
        let node = find(Path::new("node"), &[], |_| true)
            .ok_or_else(|| BrokerError::missing(name, Path::new("node")))?;
        let inside = |root: PathBuf| root.join("node_modules").join(name);
        let own = std::env::var_os(variable).map(PathBuf::from).map(inside);
        let made = std::env::var_os("XDG_DATA_HOME")
            .map(PathBuf::from)
            .or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".local/share")))
            .map(|data| inside(data.join("msgkit").join(name)));
        let global = ["/usr/lib", "/usr/local/lib"].map(|root| inside(PathBuf::from(root)));
        own.into_iter()
            .chain(made)
            .chain(global)
            .find(|directory| directory.join(main).is_file())
            .map(|directory| Self { node, version: version(name, &directory), directory })
            .ok_or_else(|| BrokerError::missing(name, Path::new(name)))
    }
}

fn version(name: &str, package: &Path) -> String {
    let text = std::fs::read_to_string(package.join("package.json")).unwrap_or_default();
    let json: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
    match json["version"].as_str() {
        Some(version) => format!("{name} {version}"),
        None => name.to_owned(),
    }
}

/// `host:port` of an address with its scheme.
pub(super) fn host_of(endpoint: &str) -> &str {
    let rest = endpoint.split_once("://").map_or(endpoint, |(_, rest)| rest);
    rest.split('/').next().unwrap_or(rest)
}
