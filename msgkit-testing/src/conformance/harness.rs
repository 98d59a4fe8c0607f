//! The suite as a test binary: every case of every subject is one visible test.

use std::collections::HashMap;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use libtest_mimic::{Arguments, Completion, Failed, Trial};

use super::case::{Case, Proof, Verdict, run};
use super::pipeline::{MsgkitPipeline, Pipeline};
use super::report::{self, Row};
use super::subject::{Subject, Time};
use super::{cases, panics, proves_pipelines};

/// Makes a subject that is not run a failure: set where the brokers are known to be there.
const REQUIRE: &str = "MSGKIT_REQUIRE_BROKERS";

/// How many of the cases that took longest are told at the end.
const SLOWEST: &str = "MSGKIT_SLOWEST";

/// Runs every case on every subject, with the arguments of a test binary (`--list`, a name, `--test-threads`).
///
/// A case that proves nothing is reported as ignored with its reason: *absent* where the transport does not claim the
/// guarantee and refuses it, *not proven* or *not run* otherwise. With the variable `MSGKIT_REQUIRE_BROKERS=1` a subject
/// without its broker is a failure. With `MSGKIT_GUARANTEES=DIR` the verdicts are written to that directory, from which
/// [`guarantees`](super::guarantees) makes the table. With `MSGKIT_SLOWEST=10` the ten cases that took longest are told at the end.
#[must_use]
pub fn main(subjects: Vec<Box<dyn Subject>>) -> ExitCode {
    let mut arguments = Arguments::from_args();
    // Cases in real time mostly wait.
    if arguments.test_threads.is_none() && subjects.iter().any(|subject| subject.time() != Time::Virtual) {
        arguments.test_threads = Some(8);
    }
    panics::keep_places();
    let rows = Arc::new(Rows::default());
    let mut trials = Vec::new();
    for subject in subjects {
        let subject: Arc<dyn Subject> = Arc::from(subject);
        rows.know(&*subject);
        for case in cases::all() {
            trials.push(trial(case, &subject, false, &rows));
            // With an observer every message takes the pipeline's long way, without one the short way where it can.
            if proves_pipelines(&case) {
                trials.push(trial(case, &subject, true, &rows));
            }
        }
    }
    let conclusion = libtest_mimic::run(&arguments, trials);
    rows.tell_slowest();
    if let Err(error) = rows.write() {
        eprintln!("the table's rows cannot be written: {error}");
        return ExitCode::FAILURE;
    }
    conclusion.exit_code()
}

fn trial(case: Case, subject: &Arc<dyn Subject>, observed: bool, rows: &Arc<Rows>) -> Trial {
    let name = format!("{}::{}{}", subject.name(), case.name, if observed { "::observed" } else { "" });
    let (subject, rows, known) = (subject.clone(), rows.clone(), name.clone());
    Trial::ignorable_test(name, move || {
        let pipeline: Arc<dyn Pipeline> = Arc::new(MsgkitPipeline { observed });
        let begun = Instant::now();
        let verdict = run(&case, &*subject, &pipeline);
        rows.took(known, begun.elapsed());
        rows.note(&*subject, &case, &verdict);
        match verdict {
            Verdict::Held(Proof::Proven | Proof::Emulated(_)) => Ok(Completion::Completed),
            Verdict::Held(Proof::Absent(what)) => Ok(Completion::ignored_with(format!("absent: {what}"))),
            Verdict::Held(Proof::NotProven(why)) => {
                Ok(Completion::ignored_with(format!("not proven: {why}")))
            }
            Verdict::NotRun(why) if std::env::var(REQUIRE).is_ok_and(|value| value == "1") => {
                Err(Failed::from(format!("not run, though {REQUIRE}=1: {why}")))
            }
            Verdict::NotRun(why) => Ok(Completion::ignored_with(format!("not run: {why}"))),
            Verdict::Broken(why) => Err(Failed::from(why)),
        }
    })
}

/// What the cases found, for the table.
#[derive(Default)]
struct Rows(Mutex<HashMap<String, Row>>, Mutex<Vec<(Duration, String)>>);

impl Rows {
    fn know(&self, subject: &dyn Subject) {
        let mut rows = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        rows.insert(subject.name(), Row::new(subject.name(), subject.version()));
    }

    fn note(&self, subject: &dyn Subject, case: &Case, verdict: &Verdict) {
        let mut rows = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(row) = rows.get_mut(&subject.name()) {
            row.note(case, verdict);
        }
    }

    fn took(&self, case: String, time: Duration) {
        self.1.lock().unwrap_or_else(PoisonError::into_inner).push((time, case));
    }

    fn tell_slowest(&self) {
        let Some(count) = std::env::var(SLOWEST).ok().and_then(|text| text.parse().ok()) else { return };
        let mut times = self.1.lock().unwrap_or_else(PoisonError::into_inner);
        times.sort_by(|a, b| b.cmp(a));
        let all: Duration = times.iter().map(|(time, _)| *time).sum();
        println!("\n{} cases took {:.1} s one after the other; the slowest:", times.len(), all.as_secs_f64());
        for (time, case) in times.iter().take(count) {
            println!("{:>7.1} s  {case}", time.as_secs_f64());
        }
    }

    fn write(&self) -> std::io::Result<()> {
        let Ok(directory) = std::env::var(report::DIRECTORY) else { return Ok(()) };
        std::fs::create_dir_all(&directory)?;
        for row in self.0.lock().unwrap_or_else(PoisonError::into_inner).values() {
            let text = serde_json::to_string_pretty(row)?;
            std::fs::write(std::path::Path::new(&directory).join(format!("{}.json", row.subject)), text)?;
        }
        Ok(())
    }
}
