//! Policies as configuration writes them.

use std::time::Duration;

use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::read::{choice, from_table, without_value};
use super::text::Lenient;
use crate::error::Error;
use crate::handler::PolicyOverrides;
use crate::policy::{BreakerPolicy, Delayed, OnFailure, Order, Unhandled};

/// A duration as it is written.
#[derive(Deserialize)]
#[serde(transparent)]
pub(super) struct Span(#[serde(with = "super::duration")] Duration);

/// The keys of a policy.
pub(super) const KEYS: [&str; 10] = [
    "immediate",
    "delayed",
    "timeout",
    "concurrency",
    "order",
    "in_flight",
    "max_starts",
    "unhandled",
    "breaker",
    "copy_deadline",
];

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawPolicy {
    immediate: Option<u32>,
    delayed: Option<toml::Value>,
    timeout: Option<Span>,
    concurrency: Option<usize>,
    order: Option<String>,
    in_flight: Option<usize>,
    max_starts: Option<u32>,
    unhandled: Option<String>,
    breaker: Option<toml::Value>,
    copy_deadline: Option<Span>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawDelayed {
    initial: Option<Span>,
    factor: Option<f64>,
    max: Option<Span>,
    rounds: Option<u32>,
    jitter: Option<f64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawBreaker {
    failures: Option<u32>,
    wait: Option<Span>,
    max_wait: Option<Span>,
    patience: Option<Span>,
}

/// Reads the keys of a policy.
pub(super) fn policy(table: toml::Table, place: &str) -> Result<PolicyOverrides, Error> {
    let raw: RawPolicy = from_table(table, place)?;
    Ok(PolicyOverrides {
        immediate: raw.immediate,
        delayed: switched(raw.delayed, "delayed", place, delayed)?,
        delayed_rounds: None,
        timeout: time(raw.timeout),
        concurrency: raw.concurrency,
        order: raw.order.map(|text| choice(place, "order", &text, &ORDERS)).transpose()?,
        in_flight: raw.in_flight,
        max_starts: raw.max_starts,
        unhandled: raw.unhandled.map(|text| choice(place, "unhandled", &text, &UNHANDLED)).transpose()?,
        breaker: switched(raw.breaker, "breaker", place, breaker)?,
        copy_deadline: time(raw.copy_deadline),
    })
}

/// How `order` is written.
const ORDERS: [(&str, Order); 3] = [
    ("none", Order::None),
    ("key", Order::Key(OnFailure::Overtake)),
    ("key_hold", Order::Key(OnFailure::Hold)),
];

/// How `unhandled` is written.
const UNHANDLED: [(&str, Unhandled); 2] = [("skip", Unhandled::Skip), ("dead_letter", Unhandled::DeadLetter)];

/// A table, or `false` to switch it off.
fn switched<T>(
    value: Option<toml::Value>,
    key: &str,
    place: &str,
    read: impl FnOnce(toml::Table, &str) -> Result<T, Error>,
) -> Result<Option<Option<T>>, Error> {
    match value {
        None => Ok(None),
        Some(toml::Value::Boolean(false)) => Ok(Some(None)),
        // From the environment everything comes as text.
        Some(toml::Value::String(text)) if text == "false" => Ok(Some(None)),
        Some(toml::Value::Table(table)) => Ok(Some(Some(read(table, &format!("{place} `{key}`"))?))),
        Some(_) => Err(Error::config(format!("{place}: `{key}` is a table of options, or `false` for none"))),
    }
}

fn delayed(table: toml::Table, place: &str) -> Result<Delayed, Error> {
    let raw: RawDelayed = from_table(table, place)?;
    let mut delayed = Delayed::default();
    delayed.initial = time(raw.initial).unwrap_or(delayed.initial);
    delayed.factor = raw.factor.unwrap_or(delayed.factor);
    delayed.max = time(raw.max).unwrap_or(delayed.max.max(delayed.initial));
    delayed.rounds = raw.rounds.unwrap_or(delayed.rounds);
    delayed.jitter = raw.jitter.unwrap_or(delayed.jitter);
    Ok(delayed)
}

fn breaker(table: toml::Table, place: &str) -> Result<BreakerPolicy, Error> {
    let raw: RawBreaker = from_table(table, place)?;
    let mut breaker = BreakerPolicy::default();
    breaker.failures = raw.failures.unwrap_or(breaker.failures).max(1);
    breaker.wait = time(raw.wait).unwrap_or(breaker.wait);
    breaker.patience = time(raw.patience).unwrap_or(breaker.patience);
    breaker.max_wait = time(raw.max_wait).unwrap_or(breaker.max_wait.max(breaker.wait));
    Ok(breaker)
}

pub(super) fn time(span: Option<Span>) -> Option<Duration> {
    span.map(|Span(duration)| duration)
}

/// Takes one value out of a table.
pub(super) fn take_scalar<T: DeserializeOwned>(
    table: &mut toml::Table,
    key: &str,
    place: &str,
) -> Result<Option<T>, Error> {
    table
        .remove(key)
        .map(|value| {
            T::deserialize(Lenient(value)).map_err(|error| {
                let what = without_value(&error.message);
                Error::config(format!("{place}: `{key}` has the wrong type: {what}"))
            })
        })
        .transpose()
}
