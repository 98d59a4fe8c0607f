//! The platform's catalog: what the components register, and who calls them from outside.

use anyhow::Context as _;
use msgkit::catalog::{Day, Level, parse_namespaces};
use msgkit::{Catalog, Namespace, Timestamp};

use super::Parts;
use crate::settings::{Component, Run};

/// The common language, in a file of its own so that teams find it.
const NAMESPACES: &str = include_str!("../../namespaces.toml");

/// Who calls the gateway: HTTP is no message, so nothing registers it.
pub const CALLS: [(&str, &str); 6] = [
    ("any HTTP client", "POST /api/v1/devices/{device_id}/readings"),
    ("any HTTP client", "GET /api/v1/readings"),
    ("any HTTP client", "GET /metrics"),
    ("browser", "GET /"),
    ("browser", "GET /api/v1/devices"),
    ("browser", "GET /api/v1/events"),
];

/// The declared namespaces.
pub(super) fn namespaces() -> anyhow::Result<Vec<Namespace>> {
    Ok(parse_namespaces(NAMESPACES, "namespaces.toml")?)
}

/// Everything that the chosen components register, and who calls them.
///
/// # Errors
/// Names the component that cannot be put together, and why.
pub async fn catalog(run: &Run) -> anyhow::Result<Catalog> {
    of(&Parts::of(run, true).await?, run)
}

fn of(parts: &Parts, run: &Run) -> anyhow::Result<Catalog> {
    let mut all = Catalog::new();
    for component in Component::ALL.into_iter().filter(|component| run.runs(*component)) {
        let own = parts.service(component)?.catalog().with_context(|| component.to_string())?;
        all = all.merge(own)?;
    }
    if run.runs(Component::ApiGateway) {
        for (from, what) in CALLS {
            all = all.external(from).call(from, Component::ApiGateway.as_str(), what);
        }
    }
    Ok(all)
}

/// Holds the chosen components together against the rules: a cycle is seen only so.
pub(super) fn check(parts: &Parts, run: &Run) -> anyhow::Result<()> {
    let configured = parts.transports.configuration.as_ref().map(|configuration| &configuration.catalog);
    let rules = configured.map(|catalog| catalog.rules.clone()).unwrap_or_default();
    for finding in of(parts, run)?.check(&rules, Day::from(Timestamp::now())) {
        anyhow::ensure!(finding.level < Level::Deny, "the system breaks a rule of the catalog: {finding}");
        tracing::warn!(%finding, "the catalog's rules");
    }
    Ok(())
}
