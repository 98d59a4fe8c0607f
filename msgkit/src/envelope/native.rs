//! What a broker's message carried beside the envelope: foreign headers of any kind, kept so that a retry copy,
//! a dead letter and a replay give them back as they came.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::text::Text;

/// A value of a foreign header, in the widest set of types that brokers have.
#[derive(Clone)]
#[non_exhaustive]
pub enum NativeValue {
    /// A name without a value.
    Null,
    /// A truth value.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// A whole number beyond the signed range.
    UInt(u64),
    /// A floating-point number.
    Float(f64),
    /// Text.
    Text(Text),
    /// Bytes that need not be text.
    Bytes(Bytes),
    /// A list of values.
    List(Vec<NativeValue>),
    /// Named values, in order.
    Table(Vec<(Text, NativeValue)>),
    /// A value of a type that only the transport knows: its type's name and the transport's own writing of it.
    Other(Text, Text),
}

impl NativeValue {
    /// The value as text, where it is text or bytes that are.
    #[must_use]
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            Self::Bytes(bytes) => std::str::from_utf8(bytes).ok(),
            _ => None,
        }
    }
}

impl PartialEq for NativeValue {
    /// Floating-point numbers bit by bit: every value equals its copy, NaN too.
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Null, Self::Null) => true,
            (Self::Bool(a), Self::Bool(b)) => a == b,
            (Self::Int(a), Self::Int(b)) => a == b,
            (Self::UInt(a), Self::UInt(b)) => a == b,
            (Self::Float(a), Self::Float(b)) => a.to_bits() == b.to_bits(),
            (Self::Text(a), Self::Text(b)) => a == b,
            (Self::Bytes(a), Self::Bytes(b)) => a == b,
            (Self::List(a), Self::List(b)) => a == b,
            (Self::Table(a), Self::Table(b)) => a == b,
            (Self::Other(kind_a, a), Self::Other(kind_b, b)) => kind_a == kind_b && a == b,
            _ => false,
        }
    }
}

impl Eq for NativeValue {}

impl fmt::Debug for NativeValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => f.write_str("null"),
            Self::Bool(value) => write!(f, "{value}"),
            Self::Int(value) => write!(f, "{value}"),
            Self::UInt(value) => write!(f, "{value}"),
            Self::Float(value) => write!(f, "{value:?}"),
            Self::Text(value) => write!(f, "{value:?}"),
            Self::Bytes(value) => write!(f, "{value:?}"),
            Self::List(values) => f.debug_list().entries(values).finish(),
            Self::Table(entries) => f.debug_map().entries(entries.iter().map(|(k, v)| (k, v))).finish(),
            Self::Other(kind, value) => write!(f, "{kind}({value})"),
        }
    }
}

impl From<&str> for NativeValue {
    fn from(value: &str) -> Self {
        Self::Text(value.into())
    }
}

impl From<bool> for NativeValue {
    fn from(value: bool) -> Self {
        Self::Bool(value)
    }
}

impl From<i64> for NativeValue {
    fn from(value: i64) -> Self {
        Self::Int(value)
    }
}

impl From<Bytes> for NativeValue {
    fn from(value: Bytes) -> Self {
        Self::Bytes(value)
    }
}

/// An ordered multimap of foreign headers: names may repeat, values may be null or typed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NativeHeaders(Vec<(Text, NativeValue)>);

impl NativeHeaders {
    /// No headers.
    #[must_use]
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// Adds one more, after all others.
    pub fn push(&mut self, name: impl Into<Text>, value: impl Into<NativeValue>) {
        self.0.push((name.into(), value.into()));
    }

    /// The first value of `name`.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&NativeValue> {
        self.0.iter().find(|(key, _)| key == name).map(|(_, value)| value)
    }

    /// All, in the order in which they came.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &NativeValue)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value))
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The JSON text that carries them through a wire form without room for anything but strings.
    #[must_use]
    pub fn to_json(&self) -> String {
        let entries: Vec<_> = self.0.iter().map(|(name, value)| (name.as_str(), Wire::of(value))).collect();
        serde_json::to_string(&entries).unwrap_or_default()
    }

    /// The headers that [`NativeHeaders::to_json`] wrote; `None` where it is not such a text.
    #[must_use]
    pub fn from_json(json: &str) -> Option<Self> {
        let entries: Vec<(String, Wire)> = serde_json::from_str(json).ok()?;
        entries
            .into_iter()
            .map(|(name, value)| Some((Text::from(name), value.into_value(0)?)))
            .collect::<Option<_>>()
            .map(Self)
    }
}

impl<N: Into<Text>, V: Into<NativeValue>> FromIterator<(N, V)> for NativeHeaders {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(entries: I) -> Self {
        Self(entries.into_iter().map(|(name, value)| (name.into(), value.into())).collect())
    }
}

/// How deep lists and tables may nest when they are read back.
const MAX_DEPTH: usize = 16;

/// The written form of a value: one letter for its type, so that 1 and "1" and 1.0 stay what they were.
#[derive(Serialize, Deserialize)]
enum Wire {
    #[serde(rename = "n")]
    Null,
    #[serde(rename = "b")]
    Bool(bool),
    #[serde(rename = "i")]
    Int(i64),
    #[serde(rename = "u")]
    UInt(u64),
    /// The bits, because JSON has no infinity and no NaN.
    #[serde(rename = "f")]
    Float(u64),
    #[serde(rename = "s")]
    Text(String),
    #[serde(rename = "x")]
    Bytes(String),
    #[serde(rename = "l")]
    List(Vec<Wire>),
    #[serde(rename = "t")]
    Table(Vec<(String, Wire)>),
    #[serde(rename = "o")]
    Other(String, String),
}

impl Wire {
    fn of(value: &NativeValue) -> Self {
        match value {
            NativeValue::Null => Self::Null,
            NativeValue::Bool(value) => Self::Bool(*value),
            NativeValue::Int(value) => Self::Int(*value),
            NativeValue::UInt(value) => Self::UInt(*value),
            NativeValue::Float(value) => Self::Float(value.to_bits()),
            NativeValue::Text(value) => Self::Text(value.as_str().to_owned()),
            NativeValue::Bytes(value) => Self::Bytes(BASE64.encode(value)),
            NativeValue::List(values) => Self::List(values.iter().map(Self::of).collect()),
            NativeValue::Table(entries) => Self::Table(
                entries.iter().map(|(name, value)| (name.as_str().to_owned(), Self::of(value))).collect(),
            ),
            NativeValue::Other(kind, value) => {
                Self::Other(kind.as_str().to_owned(), value.as_str().to_owned())
            }
        }
    }

    fn into_value(self, depth: usize) -> Option<NativeValue> {
        if depth > MAX_DEPTH {
            return None;
        }
        Some(match self {
            Self::Null => NativeValue::Null,
            Self::Bool(value) => NativeValue::Bool(value),
            Self::Int(value) => NativeValue::Int(value),
            Self::UInt(value) => NativeValue::UInt(value),
            Self::Float(bits) => NativeValue::Float(f64::from_bits(bits)),
            Self::Text(value) => NativeValue::Text(value.into()),
            Self::Bytes(value) => NativeValue::Bytes(BASE64.decode(value).ok()?.into()),
            Self::List(values) => NativeValue::List(
                values.into_iter().map(|value| value.into_value(depth + 1)).collect::<Option<_>>()?,
            ),
            Self::Table(entries) => NativeValue::Table(
                entries
                    .into_iter()
                    .map(|(name, value)| Some((Text::from(name), value.into_value(depth + 1)?)))
                    .collect::<Option<_>>()?,
            ),
            Self::Other(kind, value) => NativeValue::Other(kind.into(), value.into()),
        })
    }
}

/// A hint for one transport (MQTT's `retain`): every other transport ignores it, and it is never on the wire.
#[derive(Debug, Clone, PartialEq)]
pub struct Hint {
    /// The transport's kind, `mqtt`.
    pub transport: Text,
    /// The hint's name.
    pub name: Text,
    /// The hint's value.
    pub value: NativeValue,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two of each kind, all of them different.
    fn all() -> Vec<NativeValue> {
        vec![
            NativeValue::Null,
            NativeValue::Bool(false),
            NativeValue::Bool(true),
            NativeValue::Int(1),
            NativeValue::Int(-1),
            NativeValue::UInt(1),
            NativeValue::UInt(u64::MAX),
            NativeValue::Float(0.0),
            NativeValue::Float(-0.0),
            NativeValue::Float(f64::NAN),
            NativeValue::Text("1".into()),
            NativeValue::Text("".into()),
            NativeValue::Bytes(Bytes::from_static(b"1")),
            NativeValue::Bytes(Bytes::from_static(b"\xff")),
            NativeValue::List(vec![]),
            NativeValue::List(vec![NativeValue::Null]),
            NativeValue::Table(vec![]),
            NativeValue::Table(vec![("a".into(), NativeValue::Null)]),
            NativeValue::Other("decimal".into(), "1".into()),
            NativeValue::Other("decimal".into(), "2".into()),
            NativeValue::Other("time".into(), "1".into()),
        ]
    }

    #[test]
    fn every_value_is_equal_to_its_copy_alone_and_comes_back_from_json() {
        for (at, value) in all().iter().enumerate() {
            for (other_at, other) in all().iter().enumerate() {
                assert_eq!(value == other, at == other_at, "{value:?} and {other:?}");
            }
            let mut headers = NativeHeaders::new();
            headers.push("first", "1");
            headers.push("name", value.clone());
            assert_eq!(NativeHeaders::from_json(&headers.to_json()).as_ref(), Some(&headers));
            assert_eq!((headers.get("name"), headers.get("nobody")), (Some(value), None));
            assert_eq!((headers.len(), headers.is_empty()), (2, false));
        }
        assert!(NativeHeaders::new().is_empty());
    }

    #[test]
    fn text_is_what_is_text() {
        assert_eq!(NativeValue::from("ü").as_str(), Some("ü"));
        assert_eq!(NativeValue::from(Bytes::from_static(b"ab")).as_str(), Some("ab"));
        assert_eq!(NativeValue::from(Bytes::from_static(b"\xff")).as_str(), None);
        assert_eq!(NativeValue::from(7).as_str(), None);
        assert_eq!(NativeValue::from(true), NativeValue::Bool(true));
    }

    #[test]
    fn debug_tells_the_values() {
        let told: Vec<String> = all().iter().map(|value| format!("{value:?}")).collect();
        let wanted = "null false true 1 -1 1 18446744073709551615 0.0 -0.0 NaN \"1\" \"\" b\"1\" b\"\\xff\" \
                      [] [null] {} {\"a\": null} decimal(1) decimal(2) time(1)";
        assert_eq!(told.join(" "), wanted);
    }

    #[test]
    fn what_nests_too_deep_is_not_read_back() {
        let nested = |levels: usize| {
            let value = (0..levels).fold(NativeValue::Null, |inner, level| match level % 2 {
                0 => NativeValue::List(vec![inner]),
                _ => NativeValue::Table(vec![("a".into(), inner)]),
            });
            NativeHeaders::from_iter([("deep", value)])
        };
        let deepest = nested(MAX_DEPTH);
        assert_eq!(NativeHeaders::from_json(&deepest.to_json()), Some(deepest));
        assert_eq!(NativeHeaders::from_json(&nested(MAX_DEPTH + 1).to_json()), None);
        for text in ["", "{}", "[[\"a\",{\"x\":\"no base64!\"}]]", "[[\"a\",{\"?\":1}]]"] {
            assert_eq!(NativeHeaders::from_json(text), None, "{text}");
        }
    }
}
