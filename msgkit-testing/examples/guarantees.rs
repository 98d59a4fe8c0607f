//! Makes the table of guarantees from what the suites have found: `guarantees [--check] DIRECTORY TABLE SUBJECT…`.
//!
//! `DIRECTORY` holds one file for each subject, as the suites write them with `MSGKIT_GUARANTEES=DIRECTORY`. With
//! `--check` nothing is written, and a table that is not up to date is a failure; which version of a broker it was made on may
//! differ.

use std::error::Error;
use std::path::Path;
use std::process::ExitCode;

use msgkit_testing::conformance::{Row, guarantees};

fn main() -> ExitCode {
    match make() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn make() -> Result<(), Box<dyn Error>> {
    let mut arguments: Vec<String> = std::env::args().skip(1).collect();
    let check = arguments.first().is_some_and(|first| first == "--check");
    if check {
        arguments.remove(0);
    }
    let [directory, table, subjects @ ..] = arguments.as_slice() else {
        return Err("usage: guarantees [--check] DIRECTORY TABLE SUBJECT…".into());
    };
    let mut rows = Vec::new();
    for subject in subjects {
        let file = Path::new(directory).join(format!("{subject}.json"));
        let text = std::fs::read_to_string(&file).map_err(|error| {
            format!("{}: {error}; run the suites with MSGKIT_GUARANTEES set", file.display())
        })?;
        rows.push(serde_json::from_str::<Row>(&text)?);
    }
    let made = guarantees(&rows)?;
    if !check {
        std::fs::write(table, made)?;
    } else if without_versions(&std::fs::read_to_string(table)?) != without_versions(&made) {
        return Err(format!("{table} is stale; `make guarantees` renews it").into());
    }
    Ok(())
}

/// The table without the lines that name what each column was proven on.
fn without_versions(table: &str) -> Vec<&str> {
    table.lines().filter(|line| !line.starts_with("- `")).collect()
}
