//! The table of guarantees, made from what the cases found.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

use super::case::{Case, Proof, Verdict};
use super::cases;

/// The variable that names the directory of the rows.
pub(super) const DIRECTORY: &str = "MSGKIT_GUARANTEES";

/// What the suite found of one subject.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Row {
    /// The subject.
    pub subject: String,
    /// What it was proven on.
    pub version: String,
    /// What became of each case, by its name.
    pub verdicts: BTreeMap<String, Cell>,
}

/// What became of one case.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Cell {
    /// It holds.
    Proven,
    /// It holds by the core's doing.
    Emulated(String),
    /// The transport does not claim it, and refuses it.
    Absent(String),
    /// It can be told neither way here.
    NotProven(String),
    /// It does not hold.
    Broken(String),
}

impl Row {
    pub(super) fn new(subject: String, version: String) -> Self {
        Self { subject, version, verdicts: BTreeMap::new() }
    }

    /// Notes a verdict; the worse of two is the one that stays.
    pub(super) fn note(&mut self, case: &Case, verdict: &Verdict) {
        let cell = match verdict {
            Verdict::Held(Proof::Proven) => Cell::Proven,
            Verdict::Held(Proof::Emulated(how)) => Cell::Emulated(how.clone()),
            Verdict::Held(Proof::Absent(what)) => Cell::Absent(what.clone()),
            Verdict::Held(Proof::NotProven(why)) => Cell::NotProven(why.clone()),
            Verdict::Broken(_) => Cell::Broken("broken".to_owned()),
            Verdict::NotRun(_) => return,
        };
        let known = self.verdicts.entry(case.name.to_owned()).or_insert_with(|| cell.clone());
        if cell.rank() > known.rank() {
            *known = cell;
        }
    }
}

impl Cell {
    fn rank(&self) -> u8 {
        match self {
            Self::Proven => 0,
            Self::Emulated(_) => 1,
            Self::Absent(_) => 2,
            Self::NotProven(_) => 3,
            Self::Broken(_) => 4,
        }
    }

    fn sign(&self) -> &'static str {
        match self {
            Self::Proven => "proven",
            Self::Emulated(_) => "emulated",
            Self::Absent(_) => "absent",
            Self::NotProven(_) => "not proven",
            Self::Broken(_) => "**broken**",
        }
    }

    fn reason(&self) -> Option<&str> {
        match self {
            Self::Proven => None,
            Self::Emulated(text) | Self::Absent(text) | Self::NotProven(text) | Self::Broken(text) => {
                Some(text)
            }
        }
    }
}

/// The table as Markdown: a line for each case, a column for each of `rows`.
///
/// # Errors
/// Where a row lacks a case of the suite, with the first that is missing: such a row is of an older suite, or its run
/// was not complete.
pub fn guarantees(rows: &[Row]) -> Result<String, String> {
    let all = cases::all();
    for row in rows {
        if let Some(case) = all.iter().find(|case| !row.verdicts.contains_key(case.name)) {
            return Err(format!(
                "`{}` has no verdict of `{}`; run its whole suite again",
                row.subject, case.name
            ));
        }
    }
    let mut text = String::from(
        "# Guarantees\n\n\
         This table is made by the conformance suite (`make guarantees`); nothing in it is written by hand.\n\n\
         *proven*: the case ran on the transport and the guarantee held. *emulated*: it holds by the core's doing, at the\n\
         cost named below. *absent*: the transport does not claim it, and was seen to refuse it or to be without it.\n\
         *not proven*: it can be told neither way, for the reason named below.\n\n",
    );
    for row in rows {
        let _ = writeln!(text, "- `{}`: {}", row.subject, row.version);
    }
    let mut notes: Vec<String> = Vec::new();
    let mut chapter = "";
    for case in &all {
        if case.chapter != chapter {
            chapter = case.chapter;
            let _ = write!(text, "\n## {chapter}\n\n| Guarantee |");
            rows.iter().for_each(|row| {
                let _ = write!(text, " {} |", row.subject);
            });
            let _ = writeln!(text, "\n|---|{}", "---|".repeat(rows.len()));
        }
        let _ = write!(text, "| {} |", case.guarantee.replace('|', "\\|"));
        for row in rows {
            let Some(cell) = row.verdicts.get(case.name) else { continue };
            let _ = write!(text, " {}", cell.sign());
            if let Some(reason) = cell.reason() {
                let note = format!("{}: {reason}", row.subject);
                let at = notes.iter().position(|known| *known == note).unwrap_or_else(|| {
                    notes.push(note);
                    notes.len() - 1
                });
                let _ = write!(text, " ({})", at + 1);
            }
            text.push_str(" |");
        }
        text.push('\n');
    }
    text.push_str("\n## Notes\n\n");
    for (at, note) in notes.iter().enumerate() {
        let _ = writeln!(text, "{}. {note}", at + 1);
    }
    Ok(text)
}
