//! The language of the platform: every message that one component sends to another.
//!
//! Plain data. Times are instants (RFC 3339 in JSON); temperatures are °C, humidity is relative in %, light is in lux, CO2 in ppm, the
//! humidity ratio in kg of water per kg of dry air. A window is named as in the HTTP interface: `1m`, `10m`.

use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use msgkit::Message;
use serde::{Deserialize, Serialize};

/// What a device measured. Topic `device.{device_id}.reading`, key `device_id`.
///
/// Published by `device.hw` and, for devices that speak HTTP, by `service_platform.api_gateway`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Message)]
#[message(name = "device.reading.reported", topic = "device.{device_id}.reading", key = device_id)]
pub struct ReadingReported {
    /// Which device.
    pub device_id: String,
    /// °C.
    pub temperature: f64,
    /// Relative humidity, %.
    pub humidity: f64,
    /// Lux.
    pub light: f64,
    /// ppm.
    pub co2: f64,
    /// When it was measured (event time).
    pub at: Timestamp,
}

/// What a device measured that knows nothing of messages: plain JSON on its topic, which an ingest rule of the configuration takes for
/// this. Topic `device.{device_id}.reading`, key `device_id`.
///
/// Published by whatever speaks MQTT.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Message)]
#[message(name = "device.reading.measured", topic = "device.{device_id}.reading", key = device_id)]
pub struct ReadingMeasured {
    /// Which device; where it does not say, the one that its topic names.
    #[serde(default)]
    pub device_id: String,
    /// °C.
    pub temperature: f64,
    /// Relative humidity, %.
    pub humidity: f64,
    /// Lux.
    pub light: f64,
    /// ppm.
    pub co2: f64,
    /// When it was measured; where it does not say, when it came in.
    pub at: Option<Timestamp>,
}

/// A reading that is plausible, with what follows from it.
///
/// Published by `service_platform.container.processing`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Message)]
#[message(name = "processing.reading.enriched", topic = "service_platform.container.processing.{device_id}", key = device_id)]
pub struct ReadingEnriched {
    /// The id of the [`ReadingReported`] that this is about: the id that the sender was given.
    pub reading_id: String,
    /// Which device.
    pub device_id: String,
    /// °C.
    pub temperature: f64,
    /// Relative humidity, %.
    pub humidity: f64,
    /// Lux.
    pub light: f64,
    /// ppm.
    pub co2: f64,
    /// kg of water per kg of dry air.
    pub humidity_ratio: f64,
    /// When it was measured (event time).
    pub at: Timestamp,
}

impl ReadingEnriched {
    /// The value of one quantity.
    #[must_use]
    pub fn value(&self, quantity: Quantity) -> f64 {
        match quantity {
            Quantity::Temperature => self.temperature,
            Quantity::Humidity => self.humidity,
            Quantity::Light => self.light,
            Quantity::Co2 => self.co2,
            Quantity::HumidityRatio => self.humidity_ratio,
        }
    }
}

/// What is measured or derived.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Quantity {
    /// °C.
    Temperature,
    /// Relative humidity, %.
    Humidity,
    /// Lux.
    Light,
    /// ppm.
    Co2,
    /// kg of water per kg of dry air.
    HumidityRatio,
}

impl Quantity {
    /// All of them, in the order of the fields of a reading.
    pub const ALL: [Self; 5] =
        [Self::Temperature, Self::Humidity, Self::Light, Self::Co2, Self::HumidityRatio];

    /// The name in JSON, in the store and in metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Temperature => "temperature",
            Self::Humidity => "humidity",
            Self::Light => "light",
            Self::Co2 => "co2",
            Self::HumidityRatio => "humidity_ratio",
        }
    }
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The length of an aggregation window.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Window {
    /// `1m`.
    #[serde(rename = "1m")]
    OneMinute,
    /// `10m`.
    #[serde(rename = "10m")]
    TenMinutes,
}

impl Window {
    /// Every window that is kept.
    pub const ALL: [Self; 2] = [Self::OneMinute, Self::TenMinutes];

    /// The name: `1m`, `10m`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::OneMinute => "1m",
            Self::TenMinutes => "10m",
        }
    }
}

impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Not the name of a window.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a window: the windows are `1m` and `10m`")]
pub struct UnknownWindow(pub String);

impl FromStr for Window {
    type Err = UnknownWindow;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|w| w.as_str() == name).ok_or_else(|| UnknownWindow(name.to_owned()))
    }
}

/// The extremes and the mean of one quantity in a window.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// The smallest value.
    pub min: f64,
    /// The largest value.
    pub max: f64,
    /// The arithmetic mean.
    pub mean: f64,
}

/// What is now known about one window of one device. A later one of the same window has a larger `count` and replaces it.
///
/// Published by `data_core.data_api` when a reading was stored for the first time.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Message)]
#[message(name = "data.aggregate.updated", topic = "data_core.data_api.aggregates.{device_id}", key = device_id)]
pub struct AggregateUpdated {
    /// Which device.
    pub device_id: String,
    /// How long the window is.
    pub window: Window,
    /// Where it starts, a multiple of its length since 1970 in UTC. The end is not part of it.
    pub start: Timestamp,
    /// How many readings it holds.
    pub count: u64,
    /// °C.
    pub temperature: Summary,
    /// Relative humidity, %.
    pub humidity: Summary,
    /// Lux.
    pub light: Summary,
    /// ppm.
    pub co2: Summary,
    /// kg of water per kg of dry air.
    pub humidity_ratio: Summary,
}

/// A rule found its condition met. Published by `service_platform.core.event_rule`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Message)]
#[message(name = "event_rule.alert.raised", topic = "service_platform.core.event_rule.{device_id}", key = device_id)]
pub struct AlertRaised {
    /// Which device.
    pub device_id: String,
    /// The rule's name.
    pub rule: String,
    /// What the rule looks at.
    pub quantity: Quantity,
    /// The value that raised it.
    pub value: f64,
    /// The limit that it crossed.
    pub threshold: f64,
    /// The time of the reading that raised it.
    pub at: Timestamp,
}

/// An alert is over. Published by `service_platform.core.event_rule`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Message)]
#[message(name = "event_rule.alert.cleared", topic = "service_platform.core.event_rule.{device_id}", key = device_id)]
pub struct AlertCleared {
    /// Which device.
    pub device_id: String,
    /// The rule's name.
    pub rule: String,
    /// What the rule looks at.
    pub quantity: Quantity,
    /// The value that cleared it.
    pub value: f64,
    /// The limit that it came back over.
    pub threshold: f64,
    /// The time of the reading that cleared it.
    pub at: Timestamp,
}

/// One entry of the trace journal: what became of one message at one component. Published by an observer, for every message alike.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HopRecorded {
    /// The trace that the message belongs to.
    pub trace_id: String,
    /// The message's id.
    pub id: String,
    /// The id of the message that caused it; none at the source of a flow.
    pub causation_id: Option<String>,
    /// How many messages lie between this one and the source of the flow.
    pub hop: u32,
    /// Where it was published.
    pub topic: String,
    /// Its wire name.
    pub r#type: String,
    /// The component that published or handled it.
    pub component: String,
    /// When that happened.
    pub time: Timestamp,
    /// `published`, `done`, `retried`, `dead_lettered`, `discarded`.
    pub outcome: String,
    /// Which attempt this was; 0 for the entry of the publisher.
    pub attempts: u32,
}

/// A reading as it is kept.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Message)]
#[message(name = "data.reading.stored", topic = "data_core.data_api.readings.{device_id}", key = device_id)]
pub struct StoredReading {
    /// The id that the sender of the reading was given.
    pub id: String,
    /// The trace that it belongs to.
    pub trace_id: String,
    /// Which device.
    pub device_id: String,
    /// When it was measured.
    pub at: Timestamp,
    /// °C.
    pub temperature: f64,
    /// Relative humidity, %.
    pub humidity: f64,
    /// Lux.
    pub light: f64,
    /// ppm.
    pub co2: f64,
    /// kg of water per kg of dry air.
    pub humidity_ratio: f64,
}

impl StoredReading {
    /// What is to be kept of a reading that came in under a trace.
    #[must_use]
    pub fn new(trace_id: impl Into<String>, reading: &ReadingEnriched) -> Self {
        Self {
            id: reading.reading_id.clone(),
            trace_id: trace_id.into(),
            device_id: reading.device_id.clone(),
            at: reading.at,
            temperature: reading.temperature,
            humidity: reading.humidity,
            light: reading.light,
            co2: reading.co2,
            humidity_ratio: reading.humidity_ratio,
        }
    }

    /// The message that this row was made of.
    #[must_use]
    pub fn to_enriched(&self) -> ReadingEnriched {
        ReadingEnriched {
            reading_id: self.id.clone(),
            device_id: self.device_id.clone(),
            temperature: self.temperature,
            humidity: self.humidity,
            light: self.light,
            co2: self.co2,
            humidity_ratio: self.humidity_ratio,
            at: self.at,
        }
    }
}

/// Whether an alert began or ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AlertState {
    /// It began.
    Raised,
    /// It is over.
    Cleared,
}

impl AlertState {
    /// The name in JSON and in the store.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Raised => "raised",
            Self::Cleared => "cleared",
        }
    }
}

/// An alert's beginning or end, as it is kept.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StoredAlert {
    /// The id of the message that told of it.
    pub id: String,
    /// The trace that it belongs to.
    pub trace_id: String,
    /// Whether it began or ended.
    pub state: AlertState,
    /// Which device.
    pub device_id: String,
    /// The rule's name.
    pub rule: String,
    /// What the rule looks at.
    pub quantity: Quantity,
    /// The value that raised or cleared it.
    pub value: f64,
    /// The limit that was crossed.
    pub threshold: f64,
    /// The time of the reading that raised or cleared it.
    pub at: Timestamp,
}

impl StoredAlert {
    /// What is to be kept of an alert that began.
    #[must_use]
    pub fn raised(id: impl Into<String>, trace_id: impl Into<String>, alert: AlertRaised) -> Self {
        let AlertRaised { device_id, rule, quantity, value, threshold, at } = alert;
        let (id, trace_id) = (id.into(), trace_id.into());
        Self { id, trace_id, state: AlertState::Raised, device_id, rule, quantity, value, threshold, at }
    }

    /// What is to be kept of an alert that ended.
    #[must_use]
    pub fn cleared(id: impl Into<String>, trace_id: impl Into<String>, alert: AlertCleared) -> Self {
        let AlertCleared { device_id, rule, quantity, value, threshold, at } = alert;
        let (id, trace_id) = (id.into(), trace_id.into());
        Self { id, trace_id, state: AlertState::Cleared, device_id, rule, quantity, value, threshold, at }
    }
}

/// A message that the pipeline gave up on, as it is shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Message)]
#[message(name = "data.dead_letter.found", topic = "data_core.data_api.dead_letters")]
pub struct DeadLetter {
    /// The message's id.
    pub id: String,
    /// The trace that it belongs to.
    pub trace_id: String,
    /// Where it was published.
    pub topic: String,
    /// Its wire name.
    pub r#type: String,
    /// The group that gave up on it.
    pub group: String,
    /// Why, in one word: `handler`, `decode`, `panic`, `timeout`, `expired`, `rejected`, `crash`.
    pub kind: String,
    /// Why, in words.
    pub error: String,
    /// How often it was tried.
    pub attempts: u32,
    /// When it was given up.
    pub time: Timestamp,
    /// The payload, as text; bytes that are not UTF-8 are shown as U+FFFD.
    pub payload: String,
}

/// A device that has reported at least once.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DeviceSeen {
    /// Which device.
    pub device_id: String,
    /// How many of its readings are stored.
    pub readings: u64,
    /// The newest of them by event time.
    pub newest: StoredReading,
}

/// Asks which devices there are.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, Message)]
#[message(name = "data.devices.query", topic = "data_core.data_api.queries")]
pub struct DevicesQuery {
    /// At most so many.
    pub limit: u32,
}

/// Answers [`DevicesQuery`], ordered by id.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, Message)]
#[message(name = "data.devices.answer", topic = "data_core.data_api.answers")]
pub struct DevicesAnswer {
    /// What was found.
    pub devices: Vec<DeviceSeen>,
}

/// Asks for the newest readings, of one device or of all.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, Message)]
#[message(name = "data.readings.query", topic = "data_core.data_api.queries")]
pub struct ReadingsQuery {
    /// Only of this device.
    pub device_id: Option<String>,
    /// At most so many.
    pub limit: u32,
}

/// Answers [`ReadingsQuery`], newest first: by event time those of one device, by arrival those of all.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, Message)]
#[message(name = "data.readings.answer", topic = "data_core.data_api.answers")]
pub struct ReadingsAnswer {
    /// What was found.
    pub readings: Vec<StoredReading>,
}

/// Asks for the newest windows of one length.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Message)]
#[message(name = "data.aggregates.query", topic = "data_core.data_api.queries")]
pub struct AggregatesQuery {
    /// Only of this device.
    pub device_id: Option<String>,
    /// Which length.
    pub window: Window,
    /// At most so many.
    pub limit: u32,
}

/// Answers [`AggregatesQuery`], newest first.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, Message)]
#[message(name = "data.aggregates.answer", topic = "data_core.data_api.answers")]
pub struct AggregatesAnswer {
    /// What was found.
    pub aggregates: Vec<AggregateUpdated>,
}

/// Asks for the newest beginnings and ends of alerts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, Message)]
#[message(name = "data.alerts.query", topic = "data_core.data_api.queries")]
pub struct AlertsQuery {
    /// Only of this device.
    pub device_id: Option<String>,
    /// At most so many.
    pub limit: u32,
}

/// Answers [`AlertsQuery`], newest first: by event time those of one device, by arrival those of all.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, Message)]
#[message(name = "data.alerts.answer", topic = "data_core.data_api.answers")]
pub struct AlertsAnswer {
    /// What was found.
    pub alerts: Vec<StoredAlert>,
}

/// Asks for the newest dead letters.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, Message)]
#[message(name = "data.dead_letters.query", topic = "data_core.data_api.queries")]
pub struct DeadLettersQuery {
    /// At most so many.
    pub limit: u32,
}

/// Answers [`DeadLettersQuery`], newest first.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, Message)]
#[message(name = "data.dead_letters.answer", topic = "data_core.data_api.answers")]
pub struct DeadLettersAnswer {
    /// What was found.
    pub dead_letters: Vec<DeadLetter>,
}

/// Asks for what is known of one trace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Message)]
#[message(name = "data.trace.query", topic = "data_core.data_api.queries")]
pub struct TraceQuery {
    /// Which trace.
    pub trace_id: String,
}

/// Answers [`TraceQuery`], a cause always before its effects. Empty where the trace is not known.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, Message)]
#[message(name = "data.trace.answer", topic = "data_core.data_api.answers")]
pub struct TraceAnswer {
    /// What was found.
    pub hops: Vec<HopRecorded>,
}

/// Asks for readings of a device before a point of its event time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Message)]
#[message(name = "data.history.query", topic = "data_core.data_api.queries")]
pub struct HistoryQuery {
    /// Which device.
    pub device_id: String,
    /// Before this time,
    pub at: Timestamp,
    /// and, at the same time, before this id.
    pub id: String,
    /// The newest so many.
    pub limit: u32,
}

/// Answers [`HistoryQuery`], oldest first.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, Message)]
#[message(name = "data.history.answer", topic = "data_core.data_api.answers")]
pub struct HistoryAnswer {
    /// What was found.
    pub readings: Vec<StoredReading>,
}

/// Entries of the trace journal, as an observer collects them. Never recorded themselves.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Message)]
#[message(name = "data.journal.recorded", topic = "data_core.data_api.journal")]
pub struct HopsRecorded {
    /// What happened.
    pub hops: Vec<HopRecorded>,
}

/// Something for the dashboards.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Message)]
#[message(name = "notification.event.told", topic = "service_platform.notification.events")]
pub struct EventTold {
    /// `reading`, `aggregate`, `alert` or `dead_letter`.
    pub name: String,
    /// What the REST interface would answer, as JSON text.
    pub data: String,
}
