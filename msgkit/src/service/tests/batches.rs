//! What becomes of the messages of one batch.

use super::*;
use crate::handler::{Batch, BatchOutcome, HandleBatch, batch};
use crate::policy::BreakerPolicy;
use crate::transport::{Outgoing, Publisher as _};

/// Notes the ids of each batch, and asks what comes of the call of that number (from 1).
struct Noting<F>(Mutex<Vec<Vec<u32>>>, F);

impl<F> HandleBatch<Placed> for Noting<F>
where
    F: Fn(usize) -> Result<(), HandlerError> + Send + Sync + 'static,
{
    async fn handle_batch(&self, batch: Vec<Batch<Placed>>) -> Result<BatchOutcome, HandlerError> {
        let call = {
            let mut calls = self.0.lock().unwrap();
            calls.push(batch.iter().map(|one| one.message.id).collect());
            calls.len()
        };
        (self.1)(call).map(|()| BatchOutcome::all(batch.len()))
    }
}

fn noting<F>(outcome: F) -> Arc<Noting<F>> {
    Arc::new(Noting(Mutex::default(), outcome))
}

/// Batches of at most eight, which wait a second for each other.
fn eight<F>(handler: &Arc<Noting<F>>) -> HandlerSpec
where
    F: Fn(usize) -> Result<(), HandlerError> + Send + Sync + 'static,
{
    HandlerSpec::new("g", "g").unwrap().with(batch(handler, 8, Duration::from_secs(1)))
}

async fn deaths(memory: &Memory) -> Vec<(DeadLetterKind, u32)> {
    let letters = letters(memory, "g").await;
    letters
        .iter()
        .filter_map(|letter| letter.dead_letter())
        .map(|facts| (facts.kind, facts.attempts))
        .collect()
}

#[tokio::test(start_paused = true)]
async fn a_panic_is_a_failure_of_each_of_them() {
    let (memory, clock) = virtual_memory(MemoryConfig::default());
    let handler = noting(|_| panic!("no"));
    let running = serve(&memory, clock, eight(&handler).retry(0, 0)).await;
    running.publisher().publish_all(&[placed(1), placed(2)]).await.unwrap();
    until("idle", || memory.is_idle()).await;
    assert_eq!(*handler.0.lock().unwrap(), [vec![1, 2]]);
    assert_eq!(deaths(&memory).await, [(DeadLetterKind::Panic, 1); 2]);
    running.drain().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_a_batch_says_of_the_one_that_is_left_of_it_is_kept() {
    let (memory, clock) = virtual_memory(MemoryConfig::default());
    let handler = noting(|_| Err(HandlerError::permanent("no such order")));
    let running = serve(&memory, clock, eight(&handler).retry(3, 0)).await;
    let expired = |envelope: &mut crate::Envelope| envelope.set_expires(Some(Timestamp::EPOCH));
    running.publisher().publish_with(&placed(1), expired).await.unwrap();
    running.publisher().publish(&placed(2)).await.unwrap();
    until("idle", || memory.is_idle()).await;
    assert_eq!(*handler.0.lock().unwrap(), [[2]]);
    assert_eq!(deaths(&memory).await, [(DeadLetterKind::Expired, 0), (DeadLetterKind::Rejected, 1)]);
    running.drain().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn in_an_outage_they_are_tried_one_by_one() {
    let (memory, clock) = virtual_memory(MemoryConfig::default());
    let handler = noting(|call| if call <= 12 { Err("no database".into()) } else { Ok(()) });
    let spec = eight(&handler).retry(0, 5).overrides(|policy| {
        policy.breaker = Some(Some(BreakerPolicy { failures: 1, ..Default::default() }));
    });
    let running = serve(&memory, clock, spec).await;
    running.publisher().publish_all(&[placed(1), placed(2)]).await.unwrap();
    until("the first failure", || handler.0.lock().unwrap().len() == 1).await;
    running.publisher().publish_all(&[placed(3), placed(4)]).await.unwrap();
    tokio::time::sleep(Duration::from_secs(3600)).await;
    let calls = handler.0.lock().unwrap().clone();
    assert_eq!(calls[0], [1, 2]);
    let outage = &calls[1..12];
    assert!(outage.iter().all(|call| call.len() == 1), "{calls:?}");
    assert!(
        outage.contains(&vec![3]) && outage.contains(&vec![4]),
        "those that came together, too: {calls:?}"
    );
    let mut handled: Vec<u32> = calls[12..].concat();
    handled.sort_unstable();
    assert_eq!(handled, [1, 2, 3, 4]);
    assert!(deaths(&memory).await.is_empty());
    running.drain().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_suspect_starts_with_nothing_of_a_batch_in_hand() {
    let (memory, clock) = virtual_memory(MemoryConfig::default());
    let handler = noting(|_| Ok(()));
    let running = serve(&memory, clock, eight(&handler).order(Order::None)).await;
    let order = |id, last_start| {
        let mut envelope = crate::envelope_of(&placed(id), &Text::from_static("shop"), clock.now()).unwrap();
        envelope.set_retry(Some(crate::envelope::Retry { round: 0, first: clock.now(), last_start }));
        let group = Group::new("g").unwrap();
        Outgoing::new(Destination::Retry { group, step: 1, delay: Duration::ZERO }, envelope)
    };
    memory.publish(vec![order(1, false), order(2, false), order(7, true), order(3, false)]).await.unwrap();
    until("idle", || memory.is_idle()).await;
    assert_eq!(*handler.0.lock().unwrap(), [vec![1, 2], vec![7], vec![3]]);
    running.drain().await.unwrap();
}
