//! Metrics through the OpenTelemetry API; exporter and reader stay the application's choice.
//!
//! Names of the [messaging conventions](https://opentelemetry.io/docs/specs/semconv/messaging/messaging-metrics/) 1.44
//! where there are some, `msgkit.…` for what they lack: retries, dead letters, in flight, time from publish to done.

use opentelemetry::metrics::{Counter, Histogram, Meter, UpDownCounter};
use opentelemetry::{KeyValue, global};

use super::observer::{Event, EventKind, Observer};
use crate::envelope::Clock;

/// The buckets that the conventions name, in seconds.
const BUCKETS: [f64; 14] = [0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0];

/// An observer that counts: `service.observe(Metrics::global(clock))`.
///
/// | metric | unit | what |
/// |---|---|---|
/// | `messaging.client.sent.messages` | `{message}` | messages that a broker took |
/// | `messaging.client.consumed.messages` | `{message}` | deliveries, once each |
/// | `messaging.process.duration` | s | one attempt of a handler; `error.type` where it failed |
/// | `msgkit.in_flight` | `{message}` | attempts under way |
/// | `msgkit.retries` | `{message}` | delayed retries scheduled |
/// | `msgkit.dead_letters` | `{message}` | dead letters, by `kind` |
/// | `msgkit.discarded`, `msgkit.skipped`, `msgkit.duplicates`, `msgkit.given_back`, `msgkit.copy_failures` | `{message}` | as the events of [`EventKind`] |
/// | `msgkit.critical_time` | s | from publish to settled, all retries included |
#[derive(Debug)]
pub struct Metrics {
    clock: Clock,
    sent: Counter<u64>,
    consumed: Counter<u64>,
    duration: Histogram<f64>,
    in_flight: UpDownCounter<i64>,
    retries: Counter<u64>,
    dead_letters: Counter<u64>,
    discarded: Counter<u64>,
    skipped: Counter<u64>,
    duplicates: Counter<u64>,
    given_back: Counter<u64>,
    copy_failures: Counter<u64>,
    critical_time: Histogram<f64>,
}

impl Metrics {
    /// Metrics on the process' global meter provider; `clock` is the service's.
    #[must_use]
    pub fn global(clock: Clock) -> Self {
        Self::on(&global::meter("msgkit"), clock)
    }

    fn on(meter: &Meter, clock: Clock) -> Self {
        let counter = |name: &'static str| meter.u64_counter(name).with_unit("{message}").build();
        let seconds = |name: &'static str| {
            meter.f64_histogram(name).with_unit("s").with_boundaries(BUCKETS.to_vec()).build()
        };
        Self {
            clock,
            sent: counter("messaging.client.sent.messages"),
            consumed: counter("messaging.client.consumed.messages"),
            duration: seconds("messaging.process.duration"),
            in_flight: meter.i64_up_down_counter("msgkit.in_flight").with_unit("{message}").build(),
            retries: counter("msgkit.retries"),
            dead_letters: counter("msgkit.dead_letters"),
            discarded: counter("msgkit.discarded"),
            skipped: counter("msgkit.skipped"),
            duplicates: counter("msgkit.duplicates"),
            given_back: counter("msgkit.given_back"),
            copy_failures: counter("msgkit.copy_failures"),
            critical_time: seconds("msgkit.critical_time"),
        }
    }
}

impl Observer for Metrics {
    fn on(&self, event: &Event<'_>) {
        // The type of a message is of low cardinality; its topic may hold a device's name.
        let mut attributes = Vec::with_capacity(5);
        if let Some(envelope) = event.envelope {
            attributes.push(KeyValue::new("messaging.message.type", envelope.kind().to_owned()));
        }
        if let Some(handler) = event.handler {
            attributes
                .push(KeyValue::new("messaging.consumer.group.name", handler.group.as_str().to_owned()));
            attributes.push(KeyValue::new("msgkit.handler", handler.handler.as_str().to_owned()));
        }
        match &event.kind {
            EventKind::Published { .. } => self.sent.add(1, &attributes),
            EventKind::Received { .. } | EventKind::Malformed(_) => self.consumed.add(1, &attributes),
            EventKind::Started { .. } => self.in_flight.add(1, &attributes),
            EventKind::Succeeded { took, .. } => {
                self.in_flight.add(-1, &attributes);
                self.duration.record(took.as_secs_f64(), &attributes);
            }
            EventKind::Failed { took, .. } => {
                self.in_flight.add(-1, &attributes);
                attributes.push(KeyValue::new("error.type", "_OTHER"));
                self.duration.record(took.as_secs_f64(), &attributes);
            }
            EventKind::RetryScheduled { .. } => self.retries.add(1, &attributes),
            EventKind::DeadLettered(letter) => {
                attributes.push(KeyValue::new("kind", letter.kind.as_str()));
                self.dead_letters.add(1, &attributes);
            }
            EventKind::Discarded { .. } => self.discarded.add(1, &attributes),
            EventKind::Skipped => self.skipped.add(1, &attributes),
            EventKind::Duplicate => self.duplicates.add(1, &attributes),
            EventKind::CopyFailed { .. } => self.copy_failures.add(1, &attributes),
            EventKind::GivenBack => self.given_back.add(1, &attributes),
            EventKind::Settled => {
                if let Some(time) = event.envelope.and_then(crate::Envelope::time) {
                    self.critical_time.record(self.clock.now().since(time).as_secs_f64(), &attributes);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use opentelemetry::metrics::MeterProvider as _;
    use opentelemetry_sdk::metrics::data::{
        AggregatedMetrics, HistogramDataPoint, MetricData, ResourceMetrics, ScopeMetrics,
    };
    use opentelemetry_sdk::metrics::{InMemoryMetricExporter, PeriodicReader, SdkMeterProvider};

    use super::*;
    use crate::handler::HandlerIdentity;

    #[test]
    fn events_become_the_conventions_metrics() {
        let exporter = InMemoryMetricExporter::default();
        let provider = SdkMeterProvider::builder()
            .with_reader(PeriodicReader::builder(exporter.clone()).build())
            .build();
        let metrics = Metrics::on(&provider.meter("msgkit"), Clock::system());
        let handler = HandlerIdentity::new("s", "h", "g");
        let tell = |kind| metrics.on(&Event { envelope: None, handler: Some(&handler), kind });
        tell(EventKind::Received { count: 1 });
        tell(EventKind::Started { attempt: 1 });
        tell(EventKind::Failed { attempt: 1, error: "x", took: std::time::Duration::from_millis(20) });
        tell(EventKind::Skipped);
        provider.force_flush().unwrap();
        let exported = exporter.get_finished_metrics().unwrap();
        let mut sums = std::collections::BTreeMap::new();
        for metric in exported.iter().flat_map(ResourceMetrics::scope_metrics).flat_map(ScopeMetrics::metrics)
        {
            let value: f64 = match metric.data() {
                AggregatedMetrics::U64(MetricData::Sum(sum)) => {
                    sum.data_points().map(|p| p.value() as f64).sum()
                }
                AggregatedMetrics::I64(MetricData::Sum(sum)) => {
                    sum.data_points().map(|p| p.value() as f64).sum()
                }
                AggregatedMetrics::F64(MetricData::Histogram(h)) => {
                    h.data_points().map(HistogramDataPoint::sum).sum()
                }
                other => panic!("{other:?}"),
            };
            sums.insert(metric.name().to_owned(), value);
        }
        assert_eq!(sums["messaging.client.consumed.messages"], 1.0);
        assert_eq!(sums["messaging.process.duration"], 0.02);
        assert_eq!(sums["msgkit.in_flight"], 0.0);
        assert_eq!(sums["msgkit.skipped"], 1.0);
    }
}
