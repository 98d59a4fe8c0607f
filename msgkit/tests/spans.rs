//! Every log line inside a handler tells which message it is about, alone and in batches; publishing has a span too.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use msgkit::handler::{Batch, BatchOutcome, HandleBatch, HandlerSpec, batch};
use msgkit::{Context, HandlerError, Message, Service};
use serde::{Deserialize, Serialize};
use tracing_subscriber::fmt::format::FmtSpan;

#[derive(Serialize, Deserialize, Message)]
#[message(name = "orders.placed", topic = "orders.placed")]
struct Placed {
    id: u32,
}

#[derive(Serialize, Deserialize, Message)]
#[message(name = "orders.shipped", topic = "orders.shipped")]
struct Shipped {
    id: u32,
}

#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Lines {
    fn with(&self, words: &str) -> Vec<String> {
        let text = String::from_utf8(self.0.lock().unwrap().clone()).unwrap();
        text.lines().filter(|line| line.contains(words)).map(str::to_owned).collect()
    }

    async fn until(&self, words: &str) -> String {
        for _ in 0..1000 {
            if let Some(line) = self.with(words).pop() {
                return line;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("no line with `{words}`");
    }
}

fn subscribe(lines: &Lines) -> tracing::subscriber::DefaultGuard {
    let lines = lines.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_ansi(false)
        .with_span_events(FmtSpan::CLOSE)
        .with_writer(move || lines.clone())
        .finish();
    tracing::subscriber::set_default(subscriber)
}

#[tokio::test]
async fn a_log_line_inside_a_handler_tells_its_message() {
    let lines = Lines::default();
    let _guard = subscribe(&lines);
    let running = Service::new("shop")
        .on("shipping", |order: Placed, cx: Context| async move {
            tracing::info!("packing");
            tokio::task::yield_now().await;
            tracing::info!("packed");
            if order.id == 2 && cx.attempt() == 1 {
                return Err("no box".into());
            }
            Ok(Shipped { id: order.id })
        })
        .start()
        .await
        .unwrap();
    let sent = running.publisher().publish(&Placed { id: 1 }).await.unwrap();
    let trace = format!("trace_id={}", sent.trace().parent.trace_id());
    for words in ["packing", "packed"] {
        let line = lines.until(words).await;
        for expected in
            [&format!("message_id={}", sent.id()), &trace, "handler=\"shipping\"", "attempt=1", "hop=0"]
        {
            assert!(line.contains(expected), "`{expected}` is not in: {line}");
        }
    }
    // What the handler published is in a span of the same trace.
    let line = lines.until("send orders.shipped").await;
    assert!(line.contains(&trace) && line.contains("messaging.system=\"memory\""), "{line}");
    running.publisher().publish(&Placed { id: 2 }).await.unwrap();
    let line = lines.until("otel.status_code").await;
    assert!(line.contains("error.type=\"handler\""), "{line}");
    running.drain().await.unwrap();
}

struct Packing;

impl HandleBatch<Placed> for Packing {
    async fn handle_batch(&self, batch: Vec<Batch<Placed>>) -> Result<BatchOutcome, HandlerError> {
        tracing::info!(orders = batch.iter().map(|one| one.message.id).sum::<u32>(), "packing together");
        Ok(BatchOutcome::each(batch.iter().map(|_| Ok(())).collect()))
    }
}

#[tokio::test]
async fn a_log_line_inside_a_batch_tells_how_many_and_the_first() {
    let lines = Lines::default();
    let _guard = subscribe(&lines);
    let spec = HandlerSpec::new("packing", "packing").unwrap();
    let running = Service::new("shop")
        .spec(spec.with(batch(&Arc::new(Packing), 3, Duration::from_secs(60))))
        .start()
        .await
        .unwrap();
    running.publisher().publish_all(&[Placed { id: 1 }, Placed { id: 2 }, Placed { id: 3 }]).await.unwrap();
    let line = lines.until("packing together").await;
    for expected in [
        "messaging.batch.message_count=3",
        "first_message_id=",
        "trace_id=",
        "handler=\"packing\"",
        "orders=6",
    ] {
        assert!(line.contains(expected), "`{expected}` is not in: {line}");
    }
    running.drain().await.unwrap();
}
