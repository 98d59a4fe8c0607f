//! The platform's catalog: what the components register, and who calls them from outside.

use anyhow::Context as _;
use msgkit::catalog::{MessageType, parse_namespaces};
use msgkit::{Catalog, Message as _, Namespace, Service};

use super::Parts;
use crate::messages::ReadingMeasured;
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

/// Who publishes plain JSON: no service, so nothing registers it either.
pub const DEVICES: &str = "any MQTT device";

/// The declared namespaces.
pub(super) fn namespaces() -> anyhow::Result<Vec<Namespace>> {
    Ok(parse_namespaces(NAMESPACES, "namespaces.toml")?)
}

/// Everything that the chosen components register, and who calls them.
///
/// # Errors
/// Names the component that cannot be put together, and why.
pub async fn catalog(run: &Run) -> anyhow::Result<Catalog> {
    let parts = Parts::of(run, true).await?;
    let mut services = Vec::new();
    for component in Component::ALL.into_iter().filter(|component| run.runs(*component)) {
        services.push((component, parts.service(component)?));
    }
    of(&services)
}

/// What these services are together.
pub(super) fn of(services: &[(Component, Service)]) -> anyhow::Result<Catalog> {
    let mut all = Catalog::new();
    for (component, service) in services {
        all = all.merge(service.catalog().with_context(|| component.to_string())?)?;
    }
    let runs = |wanted| services.iter().any(|(component, _)| *component == wanted);
    if runs(Component::Processing) {
        let measured = MessageType::new(ReadingMeasured::NAME, ReadingMeasured::TOPIC)?;
        all = all.external(DEVICES).publishes(DEVICES, measured);
    }
    if runs(Component::ApiGateway) {
        for (from, what) in CALLS {
            all = all.external(from).call(from, Component::ApiGateway.as_str(), what);
        }
    }
    Ok(all)
}
