//! Reading tables strictly.

use std::borrow::Cow;

use serde::de::DeserializeOwned;

use super::text::{Lenient, ReadError};
use crate::error::Error;

/// The known name that is most like `name`, where one is like it at all.
#[must_use]
pub fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    known
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(name, candidate), candidate))
        .filter(|(distance, candidate)| *distance <= 1 + candidate.len().max(name.len()) / 4)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Reads `table`, which stands at `place`, into a `serde` struct with `#[serde(deny_unknown_fields)]`.
///
/// # Errors
/// [`ErrorKind::Config`](crate::ErrorKind::Config) naming the place, the key, and for an unknown key the nearest known one.
pub fn from_table<T: DeserializeOwned>(table: toml::Table, place: &str) -> Result<T, Error> {
    T::deserialize(Lenient(toml::Value::Table(table))).map_err(|error| explain(&error, place))
}

/// The TOML that came from `origin`.
pub(crate) fn parse_table(text: &str, origin: &str) -> Result<toml::Table, Error> {
    text.parse().map_err(|error: toml::de::Error| {
        let line = error.span().map_or(0, |span| text.get(..span.start).unwrap_or("").lines().count().max(1));
        Error::config(format!("{origin}, line {line}, is no legal TOML: {}", error.message()))
    })
}

/// The error of a key that is none of `known`.
pub(crate) fn unknown_key<'a>(place: &str, key: &str, known: impl IntoIterator<Item = &'a str>) -> Error {
    let known: Vec<&str> = known.into_iter().collect();
    let hint = nearest(key, known.iter().copied())
        .map_or_else(|| format!("known are {}", known.join(", ")), |near| format!("did you mean `{near}`?"));
    Error::config(format!("{place} has the unknown key `{key}`; {hint}"))
}

/// The value that `known` has under the name `text`.
pub(crate) fn choice<T: Copy>(place: &str, key: &str, text: &str, known: &[(&str, T)]) -> Result<T, Error> {
    if let Some((_, value)) = known.iter().find(|(name, _)| *name == text) {
        return Ok(*value);
    }
    let names: Vec<&str> = known.iter().map(|(name, _)| *name).collect();
    let hint = nearest(text, names.iter().copied())
        .map_or_else(|| format!("known are {}", names.join(", ")), |near| format!("did you mean `{near}`?"));
    Err(Error::config(format!("{place}: `{key} = \"{text}\"` is unknown; {hint}")))
}

/// Turns serde's "unknown field `x`, expected one of …" into a sentence with the nearest known name.
fn explain(error: &ReadError, place: &str) -> Error {
    let message = error.message.as_str();
    if let Some(rest) =
        message.strip_prefix("unknown field `").or_else(|| message.strip_prefix("unknown variant `"))
        && let Some((unknown, expected)) = rest.split_once('`')
    {
        let known: Vec<&str> = expected.split('`').skip(1).step_by(2).collect();
        let what = if message.starts_with("unknown field") { "key" } else { "value" };
        let hint = match nearest(unknown, known.iter().copied()) {
            Some(near) => format!("did you mean `{near}`?"),
            None if known.is_empty() => "there are none here".to_owned(),
            None => format!("known are {}", known.join(", ")),
        };
        // A key that is unknown says itself where it stands.
        let of =
            error.path().filter(|_| what == "value").map_or_else(String::new, |key| format!(" of `{key}`"));
        return Error::config(format!("{place} has the unknown {what} `{unknown}`{of}; {hint}"));
    }
    let key = error.path().map_or_else(String::new, |key| format!("`{key}`: "));
    Error::config(format!("{place}: {key}{}", without_value(message)))
}

/// Serde's "invalid type: string "x", expected u16" without the value, which may be a secret.
pub(super) fn without_value(message: &str) -> Cow<'_, str> {
    match (message.strip_prefix("invalid "), message.rsplit_once(", expected ")) {
        (Some(rest), Some((_, expected))) => {
            let what = rest.split(':').next().unwrap_or(rest);
            format!("invalid {what}, expected {}", in_words(expected)).into()
        }
        (Some(rest), None) => format!("invalid {}", rest.split(':').next().unwrap_or(rest)).into(),
        (None, _) => message.into(),
    }
}

/// What serde expects, in the words of who writes configuration and not of who wrote the program.
fn in_words(expected: &str) -> &str {
    match expected {
        "u8" => "a whole number from 0 to 255",
        "u16" => "a whole number from 0 to 65535",
        "u32" => "a whole number from 0 to 4294967295",
        "u64" | "usize" => "a whole number, 0 or more",
        "i8" | "i16" | "i32" | "i64" | "isize" => "a whole number",
        "f32" | "f64" => "a number",
        "a boolean" => "`true` or `false`",
        "a string" => "a text in quotes",
        "a sequence" => "a list",
        "a map" => "a table",
        _ if expected.starts_with("struct ") => "a table",
        _ if expected.starts_with("enum ") => "a name in quotes",
        _ => expected,
    }
}
