//! Values of headers: AMQP's types and the portable ones.
//!
//! The types that most clients write have a portable one each; every other is kept as it is under its name, so that what
//! is read and written again is the same to the last bit of its type.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt::Write as _;

use bytes::Bytes;
use lapin::types::{AMQPValue, DecimalValue, FieldArray, FieldTable, ShortString};
use msgkit::Text;
use msgkit::envelope::NativeValue;

/// The portable value of an AMQP one.
pub(super) fn to_native(value: &AMQPValue) -> NativeValue {
    let other = |kind: &'static str, text: String| NativeValue::Other(Text::from_static(kind), text.into());
    match value {
        AMQPValue::Void => NativeValue::Null,
        AMQPValue::Boolean(value) => NativeValue::Bool(*value),
        AMQPValue::LongInt(value) => NativeValue::Int((*value).into()),
        // Clients write a small number short: one that is not is kept as it is.
        AMQPValue::LongLongInt(value) if i32::try_from(*value).is_err() => NativeValue::Int(*value),
        AMQPValue::LongLongInt(value) => other("i64", value.to_string()),
        AMQPValue::ShortShortInt(value) => other("i8", value.to_string()),
        AMQPValue::ShortShortUInt(value) => other("u8", value.to_string()),
        AMQPValue::ShortInt(value) => other("i16", value.to_string()),
        AMQPValue::ShortUInt(value) => other("u16", value.to_string()),
        AMQPValue::LongUInt(value) => other("u32", value.to_string()),
        AMQPValue::Float(value) => other("f32", format!("{:08x}", value.to_bits())),
        AMQPValue::Double(value) => NativeValue::Float(*value),
        AMQPValue::DecimalValue(value) => other("decimal", format!("{}e-{}", value.value, value.scale)),
        AMQPValue::ShortString(value) => other("shortstr", value.as_str().to_owned()),
        AMQPValue::LongString(value) => match std::str::from_utf8(value.as_bytes()) {
            Ok(text) => NativeValue::Text(text.into()),
            Err(_) => other("longstr", hex(value.as_bytes())),
        },
        AMQPValue::ByteArray(value) => NativeValue::Bytes(Bytes::copy_from_slice(value.as_slice())),
        AMQPValue::Timestamp(value) => other("timestamp", value.to_string()),
        AMQPValue::FieldArray(values) => NativeValue::List(values.as_slice().iter().map(to_native).collect()),
        AMQPValue::FieldTable(table) => NativeValue::Table(
            table.into_iter().map(|(name, value)| (name.as_str().into(), to_native(value))).collect(),
        ),
    }
}

/// The AMQP value of a portable one, the nearest where there is no equal one.
pub(super) fn from_native(value: &NativeValue) -> AMQPValue {
    match value {
        NativeValue::Null => AMQPValue::Void,
        NativeValue::Bool(value) => AMQPValue::Boolean(*value),
        NativeValue::Int(value) => match i32::try_from(*value) {
            Ok(value) => AMQPValue::LongInt(value),
            Err(_) => AMQPValue::LongLongInt(*value),
        },
        NativeValue::UInt(value) => match i64::try_from(*value) {
            Ok(value) => AMQPValue::LongLongInt(value),
            Err(_) => AMQPValue::LongString(value.to_string().into()),
        },
        NativeValue::Float(value) => AMQPValue::Double(*value),
        NativeValue::Text(text) => AMQPValue::LongString(text.as_str().into()),
        NativeValue::Bytes(bytes) => AMQPValue::ByteArray(bytes.as_ref().into()),
        NativeValue::List(values) => {
            AMQPValue::FieldArray(FieldArray::from(values.iter().map(from_native).collect::<Vec<_>>()))
        }
        NativeValue::Table(entries) => {
            let mut table: BTreeMap<ShortString, AMQPValue> = BTreeMap::new();
            for (name, value) in entries {
                if let Ok(name) = ShortString::try_new(name.as_str()) {
                    table.entry(name).or_insert_with(|| from_native(value));
                }
            }
            AMQPValue::FieldTable(FieldTable::from(table))
        }
        NativeValue::Other(kind, text) => {
            from_other(kind, text).unwrap_or_else(|| AMQPValue::LongString(text.as_str().into()))
        }
        // A type that this version does not know: the exact list beside the headers has it.
        _ => AMQPValue::Void,
    }
}

fn from_other(kind: &str, text: &str) -> Option<AMQPValue> {
    Some(match kind {
        "i8" => AMQPValue::ShortShortInt(text.parse().ok()?),
        "u8" => AMQPValue::ShortShortUInt(text.parse().ok()?),
        "i16" => AMQPValue::ShortInt(text.parse().ok()?),
        "u16" => AMQPValue::ShortUInt(text.parse().ok()?),
        "u32" => AMQPValue::LongUInt(text.parse().ok()?),
        "i64" => AMQPValue::LongLongInt(text.parse().ok()?),
        "f32" => AMQPValue::Float(f32::from_bits(u32::from_str_radix(text, 16).ok()?)),
        "timestamp" => AMQPValue::Timestamp(text.parse().ok()?),
        "decimal" => {
            let (value, scale) = text.split_once("e-")?;
            AMQPValue::DecimalValue(DecimalValue { scale: scale.parse().ok()?, value: value.parse().ok()? })
        }
        "shortstr" => AMQPValue::ShortString(ShortString::try_new(text).ok()?),
        "longstr" => AMQPValue::LongString(unhex(text)?.into()),
        _ => return None,
    })
}

/// Whether AMQP gives back exactly what is written.
pub(super) fn is_exact(value: &NativeValue) -> bool {
    to_native(&from_native(value)) == *value
}

/// A value as the text of an attribute: CloudEvents has strings, numbers, truth values and times.
pub(super) fn as_text(value: &AMQPValue) -> Option<Cow<'_, str>> {
    let text = match value {
        AMQPValue::LongString(text) => return std::str::from_utf8(text.as_bytes()).ok().map(Cow::Borrowed),
        AMQPValue::ShortString(text) => return Some(Cow::Borrowed(text.as_str())),
        AMQPValue::Boolean(value) => value.to_string(),
        AMQPValue::LongInt(value) => value.to_string(),
        AMQPValue::LongLongInt(value) => value.to_string(),
        AMQPValue::ShortInt(value) => value.to_string(),
        AMQPValue::ShortUInt(value) => value.to_string(),
        AMQPValue::LongUInt(value) => value.to_string(),
        AMQPValue::ShortShortInt(value) => value.to_string(),
        AMQPValue::ShortShortUInt(value) => value.to_string(),
        AMQPValue::Timestamp(seconds) => {
            let millis = i64::try_from(*seconds).ok()?.checked_mul(1000)?;
            msgkit::Timestamp::from_millis(millis).to_string()
        }
        _ => return None,
    };
    Some(Cow::Owned(text))
}

/// About how many bytes a value takes on the wire.
pub(super) fn bytes(value: &AMQPValue) -> usize {
    match value {
        AMQPValue::LongString(text) => text.len(),
        AMQPValue::ByteArray(bytes) => bytes.len(),
        AMQPValue::FieldArray(values) => values.as_slice().iter().map(|value| bytes(value) + 6).sum(),
        AMQPValue::FieldTable(table) => {
            table.into_iter().map(|(name, value)| name.as_str().len() + bytes(value) + 6).sum()
        }
        AMQPValue::ShortString(text) => text.as_str().len(),
        _ => 8,
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u8>> =
        text.chars().map(|c| c.to_digit(16).and_then(|digit| u8::try_from(digit).ok())).collect();
    let digits = digits.filter(|digits| digits.len().is_multiple_of(2))?;
    Some(digits.chunks(2).map(|pair| pair[0] * 16 + pair[1]).collect())
}
