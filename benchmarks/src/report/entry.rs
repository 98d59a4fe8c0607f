//! One figure of the report, the file it is kept in, and the table for people.

use std::{fmt::Write as _, fs, io, path::Path};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

/// One figure, next to the peer's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// What was measured, see [`Scenario`](crate::Scenario).
    pub scenario: String,
    /// What the figure counts, with its unit: `instructions/message`, `wall_ns/message`, ….
    pub metric: String,
    /// The framework.
    pub subject: String,
    /// Its figure; less is better, except of what is counted by the second.
    pub value: f64,
    /// The framework it is compared with; none for the peer's own figures while there is nothing to compare.
    pub peer: Option<String>,
    /// The peer's figure in the same run.
    pub peer_value: Option<f64>,
    /// `value / peer_value`; none where the peer's figure is zero. For wall time the median of the ratios of the
    /// interleaved rounds, which holds still when the machine does not.
    pub ratio: Option<f64>,
}

impl Entry {
    /// The figure of `subject` compared with that of `peer`.
    #[must_use]
    pub fn compared(scenario: &str, metric: &str, subject: (&str, f64), peer: (&str, f64)) -> Self {
        Self {
            ratio: (peer.1 != 0.0).then(|| subject.1 / peer.1),
            peer: Some(peer.0.to_owned()),
            peer_value: Some(peer.1),
            ..Self::alone(scenario, metric, subject)
        }
    }

    /// The figure of `subject` on its own.
    #[must_use]
    pub fn alone(scenario: &str, metric: &str, (subject, value): (&str, f64)) -> Self {
        Self {
            scenario: scenario.to_owned(),
            metric: metric.to_owned(),
            subject: subject.to_owned(),
            value,
            peer: None,
            peer_value: None,
            ratio: None,
        }
    }

    /// Whether both are about the same thing, beside the same peer where both have one.
    fn is_about(&self, other: &Self) -> bool {
        let same_peer = self.peer.is_none() || other.peer.is_none() || self.peer == other.peer;
        same_peer
            && (&self.scenario, &self.metric, &self.subject)
                == (&other.scenario, &other.metric, &other.subject)
    }
}

/// Puts `entries` into the report at `path`: each replaces the one about the same thing, all others stay, so that
/// separate measurements add up to one report.
///
/// # Errors
/// When the file cannot be read as a report, or not be written.
pub fn merge_into(path: &Path, entries: &[Entry]) -> anyhow::Result<()> {
    let mut all: Vec<Entry> = match fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes)
            .with_context(|| format!("{} is not a report; delete it to start anew", path.display()))?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(error).with_context(|| path.display().to_string()),
    };
    all.retain(|old| !entries.iter().any(|new| new.is_about(old)));
    all.extend_from_slice(entries);
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    let mut json = serde_json::to_string_pretty(&all)?;
    json.push('\n');
    fs::write(path, json).with_context(|| path.display().to_string())
}

/// The entries as a table, one line each.
#[must_use]
pub fn table(entries: &[Entry]) -> String {
    let mut out = format!(
        "{:<30} {:<22} {:<12} {:>12} {:>12} {:>7}\n",
        "scenario", "metric", "subject", "value", "peer", "ratio"
    );
    for entry in entries {
        let number = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |value| format!("{value:.2}"));
        // Writing to a `String` does not fail.
        let _ = writeln!(
            out,
            "{:<30} {:<22} {:<12} {:>12} {:>12} {:>7}",
            entry.scenario,
            entry.metric,
            entry.subject,
            number(Some(entry.value)),
            number(entry.peer_value),
            number(entry.ratio),
        );
    }
    out
}

#[cfg(test)]
mod tests {
    use super::{Entry, merge_into};

    #[test]
    fn a_new_figure_replaces_the_old_one_and_leaves_the_others() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("bench").join("report.json");
        let old = Entry::alone("consume/json/1", "instructions/message", ("msgkit", 2.0));
        let other = Entry::alone("consume/json/4", "instructions/message", ("msgkit", 4.0));
        let new = Entry::compared("consume/json/1", "instructions/message", ("msgkit", 1.0), ("peer", 2.0));
        merge_into(&path, &[old, other.clone()]).unwrap();
        merge_into(&path, std::slice::from_ref(&new)).unwrap();
        let kept: Vec<Entry> = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        assert_eq!(kept, [other, new.clone()]);
        assert_eq!(new.ratio, Some(0.5));
    }

    #[test]
    fn each_peer_has_a_figure_of_its_own() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("report.json");
        let beside =
            |peer: &str, value| Entry::compared("kafka/consume/1", "cpu", ("msgkit", 1.0), (peer, value));
        merge_into(&path, &[beside("one", 2.0), beside("other", 4.0)]).unwrap();
        merge_into(&path, &[beside("one", 3.0)]).unwrap();
        let kept: Vec<Entry> = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        assert_eq!(kept, [beside("other", 4.0), beside("one", 3.0)]);
    }

    #[test]
    fn no_ratio_to_nothing() {
        assert_eq!(Entry::compared("s", "allocations/message", ("msgkit", 1.0), ("peer", 0.0)).ratio, None);
    }
}
