//! The regression gate: how many instructions a scenario may take, as a ratio to the peer's in the same run.
//!
//! A ratio, because an absolute count depends on the processor: the C library picks its memory routines by it.

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::{Context as _, ensure};
use serde::Deserialize;

use super::{entry::Entry, measure::INSTRUCTIONS};
use crate::Scenario;

/// The limits, as committed in `gate.toml`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Gate {
    /// By scenario: the largest allowed ratio of instructions.
    instructions: BTreeMap<String, f64>,
}

impl Gate {
    /// Reads the limits.
    ///
    /// # Errors
    /// When the file cannot be read or is no gate file.
    pub fn read(path: &Path) -> anyhow::Result<Self> {
        let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
        toml::from_str(&text).with_context(|| path.display().to_string())
    }

    /// The scenarios that have a limit.
    ///
    /// # Errors
    /// Where one is not named as scenarios are.
    pub fn scenarios(&self) -> anyhow::Result<Vec<Scenario>> {
        self.instructions.keys().map(|name| name.parse()).collect()
    }

    /// Holds the entries of `subject` to the limits. A scenario with a limit and without a figure fails: a gate that
    /// measures nothing must not pass.
    ///
    /// # Errors
    /// Naming every scenario above its limit, or not measured.
    pub fn hold(&self, subject: &str, entries: &[Entry]) -> anyhow::Result<()> {
        let mut failures = Vec::new();
        for (scenario, limit) in &self.instructions {
            let of = |entry: &&Entry| {
                entry.scenario == *scenario && entry.metric == INSTRUCTIONS && entry.subject == subject
            };
            match entries.iter().find(of).and_then(|entry| entry.ratio) {
                Some(ratio) if ratio <= *limit => {}
                Some(ratio) => {
                    failures.push(format!("{scenario}: {ratio:.3} times the peer's, limit {limit:.3}"));
                }
                None => failures.push(format!("{scenario}: not measured for {subject}, limit {limit:.3}")),
            }
        }
        ensure!(failures.is_empty(), "too many instructions per message:\n{}", failures.join("\n"));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{Entry, Gate, INSTRUCTIONS};

    fn hold(value: f64) -> Result<(), String> {
        let gate: Gate = toml::from_str("[instructions]\n\"consume/json/1\" = 1.0").unwrap();
        let entry = Entry::compared("consume/json/1", INSTRUCTIONS, ("msgkit", value), ("peer", 100.0));
        gate.hold("msgkit", &[entry]).map_err(|error| error.to_string())
    }

    #[test]
    fn at_the_limit_passes_and_above_fails_with_the_scenario() {
        assert_eq!(hold(100.0), Ok(()));
        let error = hold(101.0).unwrap_err();
        assert!(error.contains("consume/json/1: 1.010 times"), "{error}");
    }

    #[test]
    fn what_was_not_measured_fails() {
        let gate: Gate = toml::from_str("[instructions]\n\"consume/json/1\" = 1.0").unwrap();
        assert!(gate.hold("msgkit", &[]).is_err());
    }

    #[test]
    fn the_committed_limits_name_scenarios_of_the_report() {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("gate.toml");
        let known: Vec<_> = crate::Scenario::all().iter().map(ToString::to_string).collect();
        for name in Gate::read(&path).unwrap().instructions.keys() {
            assert!(known.contains(name), "{name} is not one of {known:?}");
        }
    }
}
