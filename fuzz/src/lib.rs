//! What every decoder of msgkit promises, one function for each decoder: `check` takes any bytes and panics where a
//! promise does not hold.
//!
//! The same functions run under libFuzzer (`fuzz_targets/`, `make fuzz`) and over the corpus with seeded mutations
//! (`tests/corpus.rs`, `make test`). Common to all: no input panics, what is read and written again reads as an equal
//! value, and a refusal is a short text.

#![forbid(unsafe_code)]

pub mod attributes;
pub mod config;
mod envelope;
pub mod ingest;
pub mod names;
mod refusal;
pub mod stored;
pub mod structured;
pub mod trace;
pub mod url;
#[path = "../../msgkit-transport-sqlite/src/wire.rs"]
#[allow(dead_code, reason = "only its readers are fuzzed")]
mod wire;

use std::path::PathBuf;
use std::process::ExitCode;

/// One decoder and its promises.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// The name of its module, its corpus and its program.
    pub name: &'static str,
    /// Panics where a promise does not hold for these bytes.
    pub check: fn(&[u8]),
}

/// All of them.
pub const TARGETS: [Target; 8] = [
    Target { name: "structured", check: structured::check },
    Target { name: "attributes", check: attributes::check },
    Target { name: "trace", check: trace::check },
    Target { name: "names", check: names::check },
    Target { name: "config", check: config::check },
    Target { name: "url", check: url::check },
    Target { name: "ingest", check: ingest::check },
    Target { name: "stored", check: stored::check },
];

/// The program of one target: libFuzzer's under `cargo fuzz`, else one that checks the files it is given.
#[macro_export]
macro_rules! target {
    ($name:ident) => {
        #[cfg(fuzzing)]
        libfuzzer_sys::fuzz_target!(|bytes: &[u8]| $crate::$name::check(bytes));

        #[cfg(not(fuzzing))]
        fn main() -> std::process::ExitCode {
            $crate::replay($crate::$name::check)
        }
    };
}

/// Checks each file named on the command line: how a finding is looked at with a debugger, without a fuzzer.
#[must_use]
pub fn replay(check: fn(&[u8])) -> ExitCode {
    for path in std::env::args_os().skip(1).map(PathBuf::from) {
        match std::fs::read(&path) {
            Ok(bytes) => check(&bytes),
            Err(error) => {
                eprintln!("{}: {error}", path.display());
                return ExitCode::FAILURE;
            }
        }
        println!("{}: every promise holds", path.display());
    }
    ExitCode::SUCCESS
}
