//! Throughput of the SQLite transport, as its own example measures it: there is no peer to put beside it.

use std::{path::Path, process::Command};

use anyhow::{Context as _, ensure};

use super::entry::Entry;

/// Runs the example at `program` over `messages` messages of 100 bytes, each on the disk before it counts as published.
///
/// # Errors
/// When it fails, or tells no rate.
pub fn sqlite(program: &Path, messages: u64) -> anyhow::Result<Vec<Entry>> {
    let mut command = Command::new(program);
    command.args([&messages.to_string(), "100", "full"]);
    let output = command
        .output()
        .with_context(|| format!("cannot run {}: build the example `throughput` first", program.display()))?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{} failed:\n{errors}", program.display());
    let told = String::from_utf8_lossy(&output.stdout);
    let entries: Vec<_> = told.lines().filter_map(entry).collect();
    ensure!(!entries.is_empty(), "{} told no rate:\n{told}", program.display());
    Ok(entries)
}

/// Reads `4 process(es), 100 bytes, …: 39000 messages/s confirmed and handled (2.56 s)`.
fn entry(line: &str) -> Option<Entry> {
    let (processes, _) = line.split_once(" process(es)")?;
    let (_, rate) = line.split_once(": ")?;
    let (rate, _) = rate.split_once(" messages/s")?;
    let scenario = format!("sqlite/publish_handle_ack/{}_processes", processes.parse::<u32>().ok()?);
    Some(Entry::alone(&scenario, "messages/s", ("msgkit", rate.parse().ok()?)))
}

#[cfg(test)]
mod tests {
    use super::entry;

    #[test]
    fn the_examples_line_is_a_figure() {
        let line =
            "4 process(es), 100 bytes, synchronous=full: 39000 messages/s confirmed and handled (2.56 s)";
        let read = entry(line).unwrap();
        assert_eq!(read.scenario, "sqlite/publish_handle_ack/4_processes");
        assert_eq!((read.metric.as_str(), read.value), ("messages/s", 39000.0));
        assert!(entry("Finished").is_none());
    }
}
