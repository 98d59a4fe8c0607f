//! What can be said of the system before it connects to anything.

use std::fmt;

use anyhow::Context as _;
use msgkit::catalog::{Day, Finding, Level};
use msgkit::service::CheckReport;
use msgkit::{Service, Timestamp};

use super::{Parts, catalog};
use crate::settings::{Component, Run};

/// One report for each chosen component, and what only all of them together show.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SystemCheck {
    /// The components.
    pub components: Vec<CheckReport>,
    /// What the catalog's rules warn of beyond what a component's own report says: a circle is seen only here.
    pub findings: Vec<Finding>,
}

impl fmt::Display for SystemCheck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for report in &self.components {
            writeln!(f, "{report}")?;
        }
        writeln!(f, "the system")?;
        for finding in &self.findings {
            writeln!(f, "\n  {finding}")?;
        }
        let own: usize = self.components.iter().map(|report| report.findings.len()).sum();
        match own + self.findings.len() {
            0 => writeln!(f, "\n  {} components, no warnings", self.components.len()),
            warnings => writeln!(f, "\n  {} components, warnings: {warnings}", self.components.len()),
        }
    }
}

/// Checks everything without connecting.
///
/// # Errors
/// Names the component, the key and the fix, or the rule of the catalog that is broken and denied.
pub async fn check(run: &Run) -> anyhow::Result<SystemCheck> {
    check_with(run, |_, service| service).await
}

/// As [`check`]; `adapt` gets each component's service before that is checked.
///
/// # Errors
/// As [`check`].
pub async fn check_with(
    run: &Run,
    adapt: impl Fn(Component, Service) -> Service,
) -> anyhow::Result<SystemCheck> {
    let parts = Parts::of(run, true).await?;
    let mut services = Vec::new();
    for component in Component::ALL.into_iter().filter(|component| run.runs(*component)) {
        services.push((component, adapt(component, parts.service(component)?)));
    }
    let components: Vec<CheckReport> = services
        .iter()
        .map(|(component, service)| service.check().with_context(|| component.to_string()))
        .collect::<anyhow::Result<_>>()?;
    let configured = parts.transports.configuration.as_ref().map(|configuration| &configuration.catalog);
    let rules = configured.map(|catalog| catalog.rules.clone()).unwrap_or_default();
    let mut findings = catalog::of(&services)?.check(&rules, Day::from(Timestamp::now()));
    findings.retain(|finding| !components.iter().any(|report| report.findings.contains(finding)));
    if let Some(denied) = findings.iter().find(|finding| finding.level == Level::Deny) {
        anyhow::bail!("the system breaks a rule of its catalog: {denied}");
    }
    Ok(SystemCheck { components, findings })
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::settings::Settings;

    /// `[handlers.<name>]` is held against a list that somebody wrote; this is what there is.
    #[tokio::test]
    async fn the_handlers_of_each_component_are_those_that_it_says() {
        let run = Settings::parse_from(["device-platform"]).run;
        let check = check(&run).await.unwrap();
        for (component, report) in Component::ALL.into_iter().zip(&check.components) {
            let mut registered: Vec<&str> =
                report.handlers.iter().map(|handler| handler.handler.as_str()).collect();
            let mut said = component.handlers().to_vec();
            registered.sort_unstable();
            said.sort_unstable();
            assert_eq!(registered, said, "{component}");
        }
    }
}
