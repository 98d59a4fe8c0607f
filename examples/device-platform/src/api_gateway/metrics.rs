//! Metrics in the text format of Prometheus (version 0.0.4).

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Mutex, MutexGuard, PoisonError};

use axum::extract::{MatchedPath, Request, State};
use axum::http::{Method, StatusCode};
use axum::middleware::Next;
use axum::response::Response;

use super::Gateway;

/// The content type of the format.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What a metric is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Kind {
    /// Only goes up.
    Counter,
    /// Goes up and down.
    Gauge,
}

/// A page of metrics in the making.
#[derive(Debug, Default)]
pub struct Exposition {
    text: String,
}

impl Exposition {
    /// Adds a metric with all its samples, each with labels and a value. A metric is added once: the format wants its samples together.
    ///
    /// Names of metrics and labels are the program's own and must be `[a-zA-Z_:][a-zA-Z0-9_:]*`; values of labels may be anything.
    pub fn metric<'a>(
        &mut self,
        name: &str,
        kind: Kind,
        help: &str,
        samples: impl IntoIterator<Item = (Vec<(&'a str, &'a str)>, f64)>,
    ) {
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
        };
        let help = help.replace('\\', r"\\").replace('\n', r"\n");
        // Writing to a string does not fail.
        let _ = writeln!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}");
        for (labels, value) in samples {
            self.text.push_str(name);
            for (index, (label, text)) in labels.iter().enumerate() {
                let text = text.replace('\\', r"\\").replace('"', "\\\"").replace('\n', r"\n");
                let _ = write!(self.text, "{}{label}=\"{text}\"", if index == 0 { '{' } else { ',' });
            }
            let _ = writeln!(self.text, "{} {value}", if labels.is_empty() { "" } else { "}" });
        }
    }

    /// The page.
    #[must_use]
    pub fn into_text(self) -> String {
        self.text
    }
}

/// Counts answers.
#[derive(Debug, Default)]
pub struct HttpMetrics {
    answers: Mutex<Answers>,
}

/// How many, by route, method and status. (A [`Method`] has no order, its name has.)
type Answers = BTreeMap<(String, String, u16), u64>;

impl HttpMetrics {
    fn answers(&self) -> MutexGuard<'_, Answers> {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn count(&self, route: &str, method: &Method, status: StatusCode) {
        let key = (route.to_owned(), method.to_string(), status.as_u16());
        *self.answers().entry(key).or_default() += 1;
    }

    /// Adds the counts.
    pub fn expose(&self, exposition: &mut Exposition) {
        let answers = self.answers().clone();
        let answers: Vec<_> = answers
            .iter()
            .map(|((route, method, status), count)| (route, method, status.to_string(), *count))
            .collect();
        exposition.metric(
            "http_server_requests_total",
            Kind::Counter,
            "Requests that were answered.",
            answers.iter().map(|(route, method, status, count)| {
                let labels = vec![("route", route.as_str()), ("method", method.as_str()), ("status", status)];
                #[allow(clippy::cast_precision_loss)] // The format has nothing but floating point numbers.
                (labels, *count as f64)
            }),
        );
    }
}

/// Counts by route, not by path: a client cannot make more series.
pub(super) async fn count(State(gateway): State<Gateway>, request: Request, next: Next) -> Response {
    let route = request.extensions().get::<MatchedPath>().map(|path| path.as_str().to_owned());
    let method = request.method().clone();
    let response = next.run(request).await;
    let (route, method) = match &route {
        Some(route) => (route.as_str(), method),
        None => ("unknown", Method::GET),
    };
    gateway.http.count(route, &method, response.status());
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_labels_are_escaped() {
        let mut exposition = Exposition::default();
        exposition.metric("up", Kind::Gauge, "Two\nlines.", [(vec![], 1.0)]);
        exposition.metric("n_total", Kind::Counter, "N.", [(vec![("a", "x\"y\\z\n"), ("b", "")], 2.5)]);
        assert_eq!(
            exposition.into_text(),
            "# HELP up Two\\nlines.\n# TYPE up gauge\nup 1\n\
             # HELP n_total N.\n# TYPE n_total counter\nn_total{a=\"x\\\"y\\\\z\\n\",b=\"\"} 2.5\n"
        );
    }
}
