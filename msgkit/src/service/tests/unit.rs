//! Units of work: begun for each attempt, committed before the message is settled, rolled back with a failure.

use std::any::Any;

use async_trait::async_trait;

use super::*;
use crate::envelope::Envelope;
use crate::handler::{HandlerIdentity, Unit, UnitOfWork};

type Log = Arc<Mutex<Vec<String>>>;

#[derive(Debug)]
struct Units(Log);

struct One(Log);

#[async_trait]
impl UnitOfWork for Units {
    async fn begin(&self, _: &Envelope, _: &HandlerIdentity) -> Result<Box<dyn Unit>, HandlerError> {
        self.0.lock().unwrap().push("begin".to_owned());
        Ok(Box::new(One(self.0.clone())))
    }
}

#[async_trait]
impl Unit for One {
    fn shared(&self) -> Arc<dyn Any + Send + Sync> {
        Arc::new(self.0.clone())
    }

    async fn commit(self: Box<Self>, published: Vec<Envelope>) -> Result<Vec<Envelope>, HandlerError> {
        self.0.lock().unwrap().push(format!("commit {}", published.len()));
        Ok(published)
    }

    async fn roll_back(self: Box<Self>) {
        self.0.lock().unwrap().push("roll back".to_owned());
    }
}

#[tokio::test(start_paused = true)]
async fn each_attempt_has_a_unit_that_is_committed_with_what_it_published_or_rolled_back() {
    let (memory, clock) = virtual_memory(MemoryConfig::default());
    let (log, tries) = (Log::default(), Arc::new(AtomicU32::new(0)));
    let spec = HandlerSpec::new("g", "g")
        .unwrap()
        .with(closure(move |order: Placed, cx: Context| {
            let found = cx.unit::<Log>().expect("the handler finds its unit");
            let first = tries.fetch_add(1, Ordering::SeqCst) == 0;
            async move {
                found.lock().unwrap().push(format!("handle {}", order.id));
                if first { Err(HandlerError::retry("not yet")) } else { Ok(Shipped { id: order.id }) }
            }
        }))
        .unit_of_work(Arc::new(Units(log.clone())));
    let running = serve(&memory, clock, spec).await;
    running.publisher().publish(&placed(7)).await.unwrap();
    until("committed", || log.lock().unwrap().iter().any(|line| line.starts_with("commit"))).await;
    running.drain().await.unwrap();
    assert_eq!(*log.lock().unwrap(), ["begin", "handle 7", "roll back", "begin", "handle 7", "commit 1"]);
}
