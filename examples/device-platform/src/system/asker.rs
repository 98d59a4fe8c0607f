//! Questions and answers by messages.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use msgkit::service::PublishHandle;
use msgkit::{Context, Envelope, Error, ErrorKind, Handle, Handler, HandlerError, Message, MessageId};
use tokio::sync::oneshot;

use crate::messages::{
    AggregatesAnswer, AlertsAnswer, DeadLettersAnswer, DevicesAnswer, HistoryAnswer, ReadingsAnswer,
    TraceAnswer,
};

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// Publishes questions and waits for the answers that they caused.
#[derive(Debug, Default)]
pub struct Asker {
    publisher: OnceLock<PublishHandle>,
    waiting: Mutex<HashMap<MessageId, oneshot::Sender<Envelope>>>,
}

impl Asker {
    /// Gives it the publisher of its service, which exists only once that runs.
    pub fn connect(&self, publisher: PublishHandle) {
        let _ = self.publisher.set(publisher);
    }

    fn waiting(&self) -> MutexGuard<'_, HashMap<MessageId, oneshot::Sender<Envelope>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks, and waits for the answer.
    ///
    /// # Errors
    /// Temporary, where the question could not be published or nobody answered in time.
    pub async fn ask<Q: Message, A: Message>(&self, question: &Q) -> Result<A, Error> {
        let temporary = |text: &str| Error::new(ErrorKind::Transport, text).temporary();
        let Some(publisher) = self.publisher.get() else { return Err(temporary("the service is starting")) };
        let (sender, answer) = oneshot::channel();
        let mut asked = None;
        let publishing = publisher.publish_with(question, |envelope| {
            // Before it is published: the answer may be faster than the confirmation.
            self.waiting().insert(envelope.id().clone(), sender);
            asked = Some(Asked { asker: self, id: envelope.id().clone() });
        });
        publishing.await?;
        let answer = tokio::time::timeout(PATIENCE, answer).await;
        drop(asked);
        match answer {
            Ok(Ok(envelope)) => A::decode(&envelope),
            Ok(Err(_)) | Err(_) => {
                Err(temporary("data_core.data_api did not answer within 5 s; is it running?"))
            }
        }
    }

    fn answered(&self, envelope: &Envelope) {
        let Some(question) = envelope.causation_id() else { return };
        // Answers to others' questions, and those that came too late, are nobody's here.
        if let Some(sender) = self.waiting().remove(question) {
            let _ = sender.send(envelope.clone());
        }
    }
}

/// Forgets a question that is not waited for any more.
struct Asked<'a> {
    asker: &'a Asker,
    id: MessageId,
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        self.asker.waiting().remove(&self.id);
    }
}

/// Takes answers off the wire, for one asker.
#[derive(Debug, Handler)]
#[handler(
    messages(
        DevicesAnswer,
        ReadingsAnswer,
        AggregatesAnswer,
        AlertsAnswer,
        DeadLettersAnswer,
        TraceAnswer,
        HistoryAnswer
    ),
    ephemeral,
    name = "answers"
)]
pub struct Answers(pub std::sync::Arc<Asker>);

/// The answer goes on as it came; only who asked reads it as what it is.
macro_rules! answers {
    ($($answer:ident),+) => {
        $(impl Handle<$answer> for Answers {
            async fn handle(&self, _: $answer, cx: &Context) -> Result<(), HandlerError> {
                self.0.answered(cx.envelope());
                Ok(())
            }
        })+
    };
}

answers!(
    DevicesAnswer,
    ReadingsAnswer,
    AggregatesAnswer,
    AlertsAnswer,
    DeadLettersAnswer,
    TraceAnswer,
    HistoryAnswer
);
