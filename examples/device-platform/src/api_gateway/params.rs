//! What may stand behind the question mark, and in the path.

use std::str::FromStr;

use axum::extract::rejection::QueryRejection;
use axum::extract::{FromRequestParts, Query};
use axum::http::request::Parts;

use super::ApiError;

/// What a query may ask for at most, and what it gets where it does not say.
const MOST: u32 = 1_000;
const USUAL: u32 = 100;

/// The longest device id. Written as a segment of a topic, each byte can take three (`~XX`), and the whole topic must fit into 255.
const LONGEST_DEVICE_ID: usize = 64;

/// The parameters of a query. Each is taken once; what is left over at the end is refused, so that a typing error is not ignored.
#[derive(Debug)]
pub(super) struct Params(Vec<(String, String)>);

impl<S: Send + Sync> FromRequestParts<S> for Params {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let pairs = Query::<Vec<(String, String)>>::from_request_parts(parts, state).await;
        let Query(pairs) = pairs.map_err(|e: QueryRejection| invalid(e.body_text()))?;
        Ok(Self(pairs))
    }
}

impl Params {
    fn take(&mut self, name: &str) -> Result<Option<String>, ApiError> {
        let Some(index) = self.0.iter().position(|(key, _)| key == name) else { return Ok(None) };
        let (_, value) = self.0.remove(index);
        if self.0.iter().any(|(key, _)| key == name) {
            return Err(invalid(format!("`{name}` is there twice")));
        }
        // A form that was sent with an empty field.
        Ok((!value.is_empty()).then_some(value))
    }

    /// `device_id`, where it is given.
    pub(super) fn device_id(&mut self) -> Result<Option<String>, ApiError> {
        self.take("device_id")?.map(device_id).transpose()
    }

    /// `limit`, or the usual one.
    pub(super) fn limit(&mut self) -> Result<u32, ApiError> {
        let Some(text) = self.take("limit")? else { return Ok(USUAL) };
        match text.parse() {
            Ok(limit @ 1..=MOST) => Ok(limit),
            _ => Err(invalid(format!("`limit` is a number from 1 to {MOST}"))),
        }
    }

    /// A parameter that must be there.
    pub(super) fn required<T: FromStr<Err: ToString>>(
        &mut self,
        name: &str,
        hint: &str,
    ) -> Result<T, ApiError> {
        let Some(text) = self.take(name)? else {
            return Err(invalid(format!("`{name}` is missing: {hint}")));
        };
        text.parse().map_err(|e: T::Err| invalid(e.to_string()))
    }

    /// Refuses what nobody took.
    pub(super) fn finish(self, known: &[&str]) -> Result<(), ApiError> {
        match self.0.first() {
            None => Ok(()),
            Some((name, _)) => {
                let name: String = name.chars().take(40).collect();
                Err(invalid(format!("`{name}` is not a parameter here: {}", known.join(", "))))
            }
        }
    }
}

/// A device id that fits into a topic and onto a screen.
pub(super) fn device_id(id: String) -> Result<String, ApiError> {
    let problem = if id.is_empty() || id.len() > LONGEST_DEVICE_ID {
        format!("a device id has 1 to {LONGEST_DEVICE_ID} bytes")
    } else if id.chars().any(char::is_control) {
        "a device id has no control characters".to_owned()
    } else if id == "_" {
        "`_` alone is not a device id: the name is reserved".to_owned()
    } else {
        return Ok(id);
    };
    Err(ApiError::bad_request("invalid_device_id", problem))
}

/// A trace id: 32 hexadecimal digits (W3C Trace Context, section 3.2.2.3).
pub(super) fn trace_id(id: &str) -> Result<String, ApiError> {
    if id.len() == 32 && id.bytes().all(|b| b.is_ascii_hexdigit()) {
        Ok(id.to_ascii_lowercase())
    } else {
        Err(ApiError::bad_request("invalid_trace_id", "a trace id has 32 hexadecimal digits"))
    }
}

fn invalid(message: String) -> ApiError {
    ApiError::bad_request("invalid_parameter", message)
}
