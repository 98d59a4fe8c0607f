//! What success means: the unit of work is committed, what was published is with the broker, the inbox has noted it.
//!
//! Only then the message is settled. If the process dies anywhere before, the message is handled again and publishes the
//! same ids again.

use std::future::Future;
use std::time::Duration;

use tokio::time::Instant;

use super::Shared;
use super::work::{Work, later};
use crate::envelope::Envelope;
use crate::error::Chain;
use crate::handler::{Failure, HandlerError, Unit};
use crate::transport::Acks;

/// Waits for `future`; where that takes time, what was settled before is handed over first.
pub(super) async fn handing_over<T>(acks: &mut Acks, future: impl Future<Output = T>) -> T {
    let mut future = std::pin::pin!(future);
    let mut handed_over = false;
    std::future::poll_fn(|task| {
        let polled = future.as_mut().poll(task);
        if polled.is_pending() && !handed_over {
            handed_over = true;
            acks.hand_over();
        }
        polled
    })
    .await
}

/// Begins the unit of work of an attempt, where the handler has one.
pub(super) async fn begin(shared: &Shared, work: &Work) -> Result<Option<Box<dyn Unit>>, Failure> {
    match &shared.plan.spec.unit {
        None => Ok(None),
        Some(unit) => {
            unit.begin(&work.envelope, &shared.plan.identity).await.map(Some).map_err(Failure::outage)
        }
    }
}

/// Does what has to be done before the message of a successful attempt is settled.
pub(super) async fn complete(
    shared: &Shared,
    work: &Work,
    unit: Option<Box<dyn Unit>>,
    published: Vec<Envelope>,
) -> Result<(), Failure> {
    let left = match unit {
        None => published,
        Some(unit) => unit.commit(published).await.map_err(Failure::handler)?,
    };
    if !left.is_empty() {
        publish_before_ack(shared, left).await?;
    }
    if let Some(inbox) = &shared.plan.spec.inbox
        && let Err(error) = inbox.remember(&shared.plan.identity.group, &work.envelope).await
    {
        let error = format!("the inbox could not note the message: {}", Chain(&*error));
        return Err(Failure::outage(HandlerError::retry(error)));
    }
    Ok(())
}

/// Publishes a handler's messages; what is temporary is tried again for as long as a copy may take.
async fn publish_before_ack(shared: &Shared, outgoing: Vec<Envelope>) -> Result<(), Failure> {
    let publisher = &shared.parts.publisher;
    let batches =
        publisher.split(outgoing).map_err(|error| Failure::handler(HandlerError::permanent(error)))?;
    let deadline = later(shared.plan.policy.copy_deadline);
    for (transport, mut batch) in batches {
        let mut pause = Duration::from_millis(50);
        loop {
            let error = match tokio::time::timeout_at(deadline, publisher.publish_batch(&*transport, batch))
                .await
            {
                Ok(Ok(())) => break,
                Ok(Err(error)) => error,
                Err(_) => {
                    let error = format!("publishing took longer than {:?}", shared.plan.policy.copy_deadline);
                    return Err(Failure::outage(HandlerError::retry(error)));
                }
            };
            let text = Chain(&error).to_string();
            if !error.is_temporary() {
                return Err(Failure::handler(HandlerError::permanent(format!("publishing failed: {text}"))));
            }
            if Instant::now() + pause >= deadline {
                return Err(Failure::outage(HandlerError::retry(format!("publishing failed: {text}"))));
            }
            batch = error.into_rejected().into_iter().map(|rejected| rejected.message).collect();
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_secs(2));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::envelope::{ContentType, Timestamp};
    use crate::transport::{Delivery, Incoming, Settle, Token};

    #[derive(Debug, Default)]
    struct Noted(Mutex<Vec<u64>>);

    impl Settle for Noted {
        fn done(&self, tokens: &mut Vec<Token>) {
            self.0.lock().unwrap().extend(tokens.drain(..).map(|token| token.id));
        }
        fn returned(&self, _: Token, _: Incoming) {}
    }

    #[tokio::test]
    async fn what_was_settled_before_waits_for_nothing_that_takes_time() {
        let noted = Arc::new(Noted::default());
        let envelope = Envelope::new(
            "s",
            "t",
            "a".parse().unwrap(),
            ContentType::Json,
            "1".into(),
            Timestamp::from_millis(1),
        );
        let delivery = Delivery::new(Incoming::Envelope(envelope), Token { id: 7, epoch: 0 }, noted.clone());
        let mut acks = Acks::new();
        delivery.ack_into(&mut acks);
        handing_over(&mut acks, std::future::ready(())).await;
        assert!(noted.0.lock().unwrap().is_empty(), "what takes no time costs no call");
        let told = noted.clone();
        let looks = async move {
            tokio::task::yield_now().await;
            assert_eq!(*told.0.lock().unwrap(), [7]);
        };
        handing_over(&mut acks, looks).await;
    }
}
