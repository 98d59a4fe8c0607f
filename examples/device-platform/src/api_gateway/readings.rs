//! Readings from any HTTP client.

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::error::Category;

use super::{Accepted, ApiError, Gateway, params};
use crate::messages::ReadingReported;

/// The largest body that is read. A reading takes about a hundred bytes.
pub(super) const LARGEST_BODY: usize = 1024 * 1024;

/// The body of a request that reports a reading.
///
/// An unknown field is refused: a mistyped `at` would otherwise be a wrong time.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewReading {
    /// °C.
    pub temperature: f64,
    /// Relative humidity, %.
    pub humidity: f64,
    /// Lux.
    pub light: f64,
    /// ppm.
    pub co2: f64,
    /// When it was measured (RFC 3339); now, where it is left out. What is finer than a microsecond is cut off.
    pub at: Option<Timestamp>,
}

impl NewReading {
    /// Reads a body. Whatever `Content-Type` says: many a device leaves it out or wrong (so does `curl -d`), and pages of other origins,
    /// against which insisting on it would help, are refused before.
    fn from_json(body: &[u8]) -> Result<Self, ApiError> {
        serde_json::from_slice(body).map_err(|e| match e.classify() {
            Category::Data => ApiError::new(
                StatusCode::UNPROCESSABLE_ENTITY,
                "invalid_reading",
                format!("not a reading: {e}; expected temperature, humidity, light, co2 (numbers), at (RFC 3339, optional)"),
            ),
            _ => ApiError::bad_request("not_json", format!("the body is not JSON: {e}")),
        })
    }

    /// The message to send.
    #[must_use]
    pub fn report(self, device_id: String, now: Timestamp) -> ReadingReported {
        let Self { temperature, humidity, light, co2, at } = self;
        let at = at.unwrap_or(now);
        let at = Timestamp::from_microsecond(at.as_microsecond()).unwrap_or(at);
        ReadingReported { device_id, temperature, humidity, light, co2, at }
    }
}

/// `POST /api/v1/devices/{device_id}/readings`. Whether the values can be true is for `processing` to judge: what is implausible
/// becomes a dead letter that everybody can see, not an error that only this client sees.
pub(super) async fn report(
    State(gateway): State<Gateway>,
    Path(device_id): Path<String>,
    body: Result<Bytes, BytesRejection>,
) -> Result<(StatusCode, Json<Accepted>), ApiError> {
    let device_id = params::device_id(device_id)?;
    let body = body.map_err(|rejection| match rejection.status() {
        StatusCode::PAYLOAD_TOO_LARGE => ApiError::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "too_large",
            "the body is larger than 1 MiB; send one reading in each request",
        ),
        status => ApiError::new(status, "unreadable_body", rejection.body_text()),
    })?;
    let reading = NewReading::from_json(&body)?.report(device_id, Timestamp::now());
    let accepted = gateway.sink.accept(reading).await?;
    Ok((StatusCode::ACCEPTED, Json(accepted)))
}
