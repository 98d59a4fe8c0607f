//! One guarantee, and how it is proven.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;

use futures_util::FutureExt as _;
use msgkit::Timestamp;
use msgkit::envelope::Clock;

use super::bench::Bench;
use super::panics;
use super::pipeline::Pipeline;
use super::subject::{NotRun, Setup, Subject, Time};

/// What a case found, where it did not fail.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Proof {
    /// The guarantee holds.
    Proven,
    /// The guarantee holds by the core's doing, at the cost named.
    Emulated(String),
    /// The transport says that it cannot, and does refuse it.
    Absent(String),
    /// It can be told neither way here.
    NotProven(String),
}

impl Proof {
    /// The transport declares `what` absent, and the case has seen that it is.
    pub fn absent(what: impl Into<String>) -> Self {
        Self::Absent(what.into())
    }

    /// It cannot be told, because of `why`.
    pub fn not_proven(why: impl Into<String>) -> Self {
        Self::NotProven(why.into())
    }
}

/// What became of a case.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Verdict {
    /// It ran to its end.
    Held(Proof),
    /// The guarantee does not hold.
    Broken(String),
    /// There was no broker to run it on.
    NotRun(String),
}

/// The future of a running case.
pub type Running<'a> = Pin<Box<dyn Future<Output = Proof> + Send + 'a>>;

/// One guarantee, and the function that proves it.
#[derive(Clone, Copy)]
pub struct Case {
    /// Its name, that of the function.
    pub name: &'static str,
    /// The guarantee in words, for the table.
    pub guarantee: &'static str,
    /// Which of DESIGN's promises it belongs to, or another heading.
    pub chapter: &'static str,
    /// Proves it, or panics.
    pub prove: for<'a> fn(&'a Bench<'a>) -> Running<'a>,
}

impl std::fmt::Debug for Case {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Case").field("name", &self.name).finish_non_exhaustive()
    }
}

/// When virtual time begins.
const BEGIN: i64 = 1_767_225_600_000;

/// Runs one case on one subject, with handlers run by `pipeline`, in a runtime of its own.
#[must_use]
pub fn run(case: &Case, subject: &dyn Subject, pipeline: &Arc<dyn Pipeline>) -> Verdict {
    let time = subject.time();
    let mut builder = match time {
        Time::Virtual => tokio::runtime::Builder::new_current_thread(),
        Time::Real | Time::Slow => tokio::runtime::Builder::new_multi_thread(),
    };
    builder.enable_all();
    match time {
        Time::Virtual => builder.start_paused(true),
        Time::Real | Time::Slow => builder.worker_threads(2),
    };
    let runtime = match builder.build() {
        Ok(runtime) => runtime,
        Err(error) => return Verdict::Broken(format!("no runtime could be built: {error}")),
    };
    let verdict = runtime.block_on(async {
        let clock = match time {
            Time::Virtual => Clock::virtual_from(Timestamp::from_millis(BEGIN)),
            Time::Real | Time::Slow => Clock::system(),
        };
        // A broker that cannot be had is found out before the case begins; after that it is a failure.
        if let Err(NotRun(why)) = subject.broker(&Setup::new(clock)).await {
            return Verdict::NotRun(why);
        }
        let bench = Bench::new(subject, pipeline.clone(), clock);
        let proving = AssertUnwindSafe((case.prove)(&bench)).catch_unwind();
        match tokio::time::timeout(time.patience() * 4, proving).await {
            Ok(Ok(proof)) => Verdict::Held(proof),
            Ok(Err(panic)) => Verdict::Broken(format!("{}{}", text_of(&*panic), panics::place())),
            Err(_) => Verdict::Broken("the case did not come to an end".to_owned()),
        }
    });
    runtime.shutdown_timeout(std::time::Duration::from_secs(1));
    verdict
}

/// What a panic said.
fn text_of(panic: &(dyn std::any::Any + Send)) -> String {
    panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "a panic without text".to_owned())
}
