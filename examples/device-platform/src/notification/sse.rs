//! The hub over HTTP.

use std::convert::Infallible;
use std::time::Duration;

use axum::http::HeaderMap;
use axum::response::sse::{self, KeepAlive, Sse};
use futures_util::Stream;

use super::hub::Hub;

/// Below the idle limits of common proxies.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// Answers with the events after the one that the header `Last-Event-ID` names, or from now on where there is none. An id that nobody
/// can have been given counts as lost: the stream begins with a `reset`.
pub fn stream(
    hub: &Hub,
    headers: &HeaderMap,
) -> Sse<impl Stream<Item = Result<sse::Event, Infallible>> + use<>> {
    let last_seen = headers.get("last-event-id").map(|id| id.to_str().unwrap_or_default().parse());
    let (last_seen, lost) = match last_seen {
        None => (None, false),
        Some(Ok(id)) => (Some(id), false),
        Some(Err(())) => (None, true),
    };
    let listener = hub.listen(last_seen);
    let first = lost.then(|| sse::Event::default().event("reset").data("{}"));
    let events = futures_util::stream::unfold((first, listener), |(first, mut listener)| async {
        if let Some(first) = first {
            return Some((Ok(first), (None, listener)));
        }
        let event = listener.next().await?;
        let event = sse::Event::default().id(event.id.to_string()).event(&*event.name).data(&*event.data);
        Some((Ok(event), (None, listener)))
    });
    Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE))
}
