//! The loop around a subject, the same for all.

use std::sync::Mutex;

use anyhow::{Context as _, ensure};
use tokio::runtime::{Builder, Runtime};

use crate::{
    Scenario,
    scenario::{Flow, Variant},
    subject::Subject,
    work::Work,
};

/// Calls the region of a run, and measures around it.
pub type Around<'a> = &'a mut dyn FnMut(&mut dyn FnMut());

/// Runs `scenario` over `messages` on the subject `S`; `around` gets the part that counts as a closure.
///
/// # Errors
/// When the subject fails, or handles another number of messages than were published.
pub fn drive<S: Subject>(scenario: Scenario, messages: u64, around: Around<'_>) -> anyhow::Result<()> {
    let runtime = runtime(scenario.flow)?;
    let work = Work::new(scenario, messages);
    let subject = runtime.block_on(S::start(scenario, work.clone())).context("start")?;
    // The region returns nothing, so that its frame stays one function; a failure waits here.
    let outcome = Mutex::new(Ok(()));
    let mut region = |body: &dyn Fn() -> anyhow::Result<()>| {
        around(&mut || {
            let result = body();
            // The first failure of several regions is the one to tell.
            if let Ok(mut outcome) = outcome.lock()
                && outcome.is_ok()
            {
                *outcome = result;
            }
        });
    };
    match scenario.flow {
        Flow::Consume => {
            let mut published = 0;
            while published < messages {
                let end = messages.min(published + Flow::FILL);
                runtime.block_on(publish(&subject, published..end))?;
                let early = work.handled() - published;
                ensure!(early == 0, "{early} messages were handled before the measurement");
                region(&|| {
                    runtime.block_on(work.until(end));
                    Ok(())
                });
                published = end;
            }
        }
        Flow::PublishHandleAck => {
            region(&|| runtime.block_on(bursts(&subject, &work, messages, Flow::BURST)));
        }
        Flow::RoundTrip => region(&|| runtime.block_on(bursts(&subject, &work, messages, 1))),
        Flow::AcrossThreads | Flow::Backlog => {
            region(&|| runtime.block_on(bursts(&subject, &work, messages, messages)));
        }
    }
    outcome.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner)?;
    runtime.block_on(subject.stop()).context("stop")?;
    ensure!(work.handled() == messages, "{messages} messages published, {} handled", work.handled());
    let expected = if scenario.variant == Variant::Retry { messages / 10 } else { 0 };
    ensure!(work.failed() as u64 == expected, "{} attempts failed, not {expected}", work.failed());
    Ok(())
}

/// One thread has one order of execution, and so one count of instructions; two are this one and one worker.
fn runtime(flow: Flow) -> std::io::Result<Runtime> {
    let mut builder =
        if flow.takes_threads() { Builder::new_multi_thread() } else { Builder::new_current_thread() };
    builder.worker_threads(1).enable_all().build()
}

async fn publish<S: Subject>(subject: &S, indexes: std::ops::Range<u64>) -> anyhow::Result<()> {
    for index in indexes {
        subject.publish(index).await?;
    }
    Ok(())
}

async fn bursts<S: Subject>(subject: &S, work: &Work, messages: u64, burst: u64) -> anyhow::Result<()> {
    let mut published = 0;
    while published < messages {
        let end = messages.min(published + burst);
        publish(subject, published..end).await?;
        work.until(end).await;
        published = end;
    }
    Ok(())
}
