//! What a first build costs: a hello world of the peer and msgkit's quickstart, one after the other, each in an empty
//! target directory, with their sources already downloaded.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Instant,
};

use anyhow::{Context as _, ensure};

use super::entry::Entry;

const SCENARIO: &str = "cold_build/hello_world";

/// The service of the peer's README, as its user starts out.
const PEER_MANIFEST: &str = r#"[package]
name = "hello"
version = "0.1.0"
edition = "2024"

[dependencies]
ruststream = { version = "=0.7.7", features = ["macros", "memory", "json"] }
serde = { version = "1", features = ["derive"] }

[workspace]
"#;

const PEER_MAIN: &str = r#"use ruststream::memory::prelude::*;
use serde::Deserialize;

#[derive(Debug, Deserialize)]
struct Order {
    id: u64,
}

#[subscriber("orders")]
async fn handle(order: &Order) -> HandlerOutcome {
    println!("got order {}", order.id);
    HandlerOutcome::ack()
}

#[ruststream::app]
fn app() -> RustStream {
    RustStream::new(AppInfo::new("orders", "0.1.0")).with_broker(MemoryBroker::new(), |b| {
        b.include(handle);
    })
}
"#;

/// A first build, measured.
#[derive(Clone, Copy, Debug)]
struct Build {
    /// Packages compiled besides the program's own, build scripts' dependencies included.
    crates: usize,
    seconds: f64,
}

/// Builds the quickstart at `quickstart` and the peer's hello world.
///
/// # Errors
/// When a build fails.
pub fn cold_build(quickstart: &Path) -> anyhow::Result<Vec<Entry>> {
    let folder = tempfile::tempdir()?;
    let hello = folder.path().join("hello");
    fs::create_dir_all(hello.join("src"))?;
    fs::write(hello.join("Cargo.toml"), PEER_MANIFEST)?;
    fs::write(hello.join("src/main.rs"), PEER_MAIN)?;
    let peer = build("ruststream", &hello.join("Cargo.toml"), folder.path().join("peer-target"))?;
    let own = build("msgkit", &quickstart.join("Cargo.toml"), folder.path().join("own-target"))?;
    let entry = |metric, own, peer| Entry::compared(SCENARIO, metric, ("msgkit", own), ("ruststream", peer));
    Ok(vec![
        entry("crates", own.crates as f64, peer.crates as f64),
        entry("wall_s", own.seconds, peer.seconds),
    ])
}

fn build(name: &str, manifest: &Path, target: PathBuf) -> anyhow::Result<Build> {
    let cargo = |command: &str| {
        let mut cargo = Command::new("cargo");
        cargo.args([command, "--quiet", "--manifest-path"]).arg(manifest);
        // No configuration of the folder that this runs in: it would bring its own target directory.
        cargo.current_dir(std::env::temp_dir()).env_remove("RUSTFLAGS").env_remove("CARGO_BUILD_TARGET");
        cargo
    };
    ensure!(cargo("fetch").status()?.success(), "cargo fetch failed for {}", manifest.display());
    let mut command = cargo("build");
    command.args(["--offline", "--message-format", "json", "--target-dir"]).arg(target);
    let start = Instant::now();
    let output = command.output()?;
    let seconds = start.elapsed().as_secs_f64();
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "cargo build failed for {}:\n{errors}", manifest.display());
    let crates = compiled(&output.stdout)?;
    eprintln!("{name}: {crates} crates in {seconds:.1} s");
    Ok(Build { crates, seconds })
}

/// The packages in cargo's messages that come from a registry or another folder, that is, all but the program itself,
/// which is the last one built.
fn compiled(messages: &[u8]) -> anyhow::Result<usize> {
    let mut packages = BTreeSet::new();
    let mut last = None;
    for message in serde_json::Deserializer::from_slice(messages).into_iter::<serde_json::Value>() {
        let message = message.context("cargo's messages are not JSON")?;
        if message["reason"] == "compiler-artifact"
            && let Some(package) = message["package_id"].as_str()
        {
            packages.insert(package.to_owned());
            last = Some(package.to_owned());
        }
    }
    packages.remove(&last.context("cargo built nothing")?);
    Ok(packages.len())
}

#[cfg(test)]
mod tests {
    use super::compiled;

    #[test]
    fn a_package_counts_once_and_the_program_does_not() {
        let messages = br#"{"reason":"compiler-artifact","package_id":"serde","target":"build script"}
            {"reason":"build-script-executed","package_id":"serde"}
            {"reason":"compiler-artifact","package_id":"serde"}
            {"reason":"compiler-artifact","package_id":"tokio"}
            {"reason":"compiler-artifact","package_id":"hello"}
            {"reason":"build-finished","success":true}"#;
        assert_eq!(compiled(messages).unwrap(), 2);
    }
}
