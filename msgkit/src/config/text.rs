//! Values that may have come as text: the environment and the query of a URL know nothing else.
//!
//! There `007` may be a number or a password of digits; only who reads it knows. So text stays text until a number or a
//! truth value is asked for, and only then is it read as one.

use std::fmt;

use serde::de::value::{MapAccessDeserializer, StringDeserializer};
use serde::de::{DeserializeSeed, Deserializer, Error as _, IntoDeserializer, MapAccess, SeqAccess, Visitor};
use serde::forward_to_deserialize_any;
use toml::Value;

/// What is wrong, and the keys that lead to it.
#[derive(Debug)]
pub(super) struct ReadError {
    pub(super) message: String,
    keys: Vec<String>,
}

impl ReadError {
    /// The keys from the outermost one, with dots between; `None` where it is about the table itself.
    pub(super) fn path(&self) -> Option<String> {
        let keys: Vec<&str> = self.keys.iter().rev().map(String::as_str).collect();
        (!keys.is_empty()).then(|| keys.join("."))
    }

    fn below(mut self, key: &str) -> Self {
        self.keys.push(key.to_owned());
        self
    }
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for ReadError {}

impl serde::de::Error for ReadError {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self { message: message.to_string(), keys: Vec::new() }
    }
}

/// A TOML value whose texts are numbers and truth values where such are asked for.
pub(super) struct Lenient(pub(super) Value);

impl<'de> IntoDeserializer<'de, ReadError> for Lenient {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

/// Reads a text as the type that is asked for, and everything else as what it is.
macro_rules! from_text {
    ($($method:ident: $type:ty => $visit:ident),* $(,)?) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ReadError> {
            match &self.0 {
                Value::String(text) => match text.parse::<$type>() {
                    Ok(value) => visitor.$visit(value),
                    Err(_) => self.deserialize_any(visitor),
                },
                _ => self.deserialize_any(visitor),
            }
        })*
    };
}

impl<'de> Deserializer<'de> for Lenient {
    type Error = ReadError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ReadError> {
        match self.0 {
            Value::Table(table) => visitor.visit_map(Entries { rest: table.into_iter(), value: None }),
            Value::Array(items) => visitor.visit_seq(Items(items.into_iter())),
            Value::String(text) => visitor.visit_string(text),
            Value::Integer(number) => visitor.visit_i64(number),
            Value::Float(number) => visitor.visit_f64(number),
            Value::Boolean(truth) => visitor.visit_bool(truth),
            date @ Value::Datetime(_) => date
                .deserialize_any(visitor)
                .map_err(|error: toml::de::Error| ReadError::custom(error.message())),
        }
    }

    from_text! {
        deserialize_bool: bool => visit_bool,
        deserialize_i8: i64 => visit_i64,
        deserialize_i16: i64 => visit_i64,
        deserialize_i32: i64 => visit_i64,
        deserialize_i64: i64 => visit_i64,
        deserialize_u8: i64 => visit_i64,
        deserialize_u16: i64 => visit_i64,
        deserialize_u32: i64 => visit_i64,
        deserialize_u64: i64 => visit_i64,
        deserialize_f32: f64 => visit_f64,
        deserialize_f64: f64 => visit_f64,
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ReadError> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, ReadError> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, ReadError> {
        match self.0 {
            Value::String(text) => {
                let text: StringDeserializer<ReadError> = text.into_deserializer();
                visitor.visit_enum(text)
            }
            // `version = 5` where the names are "5" and "3.1.1".
            Value::Integer(number) => {
                let text: StringDeserializer<ReadError> = number.to_string().into_deserializer();
                visitor.visit_enum(text)
            }
            Value::Table(table) => visitor
                .visit_enum(MapAccessDeserializer::new(Entries { rest: table.into_iter(), value: None })),
            other => Self(other).deserialize_any(visitor),
        }
    }

    forward_to_deserialize_any! {
        i128 u128 char str string bytes byte_buf unit unit_struct seq tuple tuple_struct map struct identifier
        ignored_any
    }
}

/// The entries of a table; an error below one of them is told its key.
struct Entries {
    rest: <toml::Table as IntoIterator>::IntoIter,
    value: Option<(String, Value)>,
}

impl<'de> MapAccess<'de> for Entries {
    type Error = ReadError;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, ReadError> {
        let Some((key, value)) = self.rest.next() else { return Ok(None) };
        let name: StringDeserializer<ReadError> = key.clone().into_deserializer();
        self.value = Some((key, value));
        seed.deserialize(name).map(Some)
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, ReadError> {
        let (key, value) = self.value.take().ok_or_else(|| ReadError::custom("a value without a key"))?;
        seed.deserialize(Lenient(value)).map_err(|error| error.below(&key))
    }
}

/// The items of an array.
struct Items(std::vec::IntoIter<Value>);

impl<'de> SeqAccess<'de> for Items {
    type Error = ReadError;

    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, ReadError> {
        self.0.next().map(|item| seed.deserialize(Lenient(item))).transpose()
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use crate::transport::{Options, TransportUrl};

    #[derive(Debug, Default, PartialEq, Deserialize)]
    #[serde(default, deny_unknown_fields)]
    struct Native {
        password: String,
        port: Option<u16>,
        ratio: f64,
        clean: bool,
        level: Level,
        names: Vec<String>,
        inner: Inner,
        version: Version,
    }

    #[derive(Debug, Default, PartialEq, Deserialize)]
    enum Version {
        #[default]
        #[serde(rename = "3.1.1")]
        Three,
        #[serde(rename = "5")]
        Five,
    }

    #[derive(Debug, Default, PartialEq, Deserialize)]
    #[serde(rename_all = "snake_case")]
    enum Level {
        #[default]
        Low,
        High,
    }

    #[derive(Debug, Default, PartialEq, Deserialize)]
    #[serde(default, deny_unknown_fields)]
    struct Inner {
        size: u32,
    }

    fn read(url: &str, options: &str) -> Result<Native, crate::Error> {
        Options::from_toml("[x]", options)?.read(&TransportUrl::parse(url)?)
    }

    #[test]
    fn digits_are_a_password_where_text_is_wanted_and_a_number_elsewhere() {
        let native = read("x://h?password=007&port=1883&ratio=2&clean=true&level=high", "").unwrap();
        let expected = Native {
            password: "007".to_owned(),
            port: Some(1883),
            ratio: 2.0,
            clean: true,
            level: Level::High,
            ..Native::default()
        };
        assert_eq!(native, expected);
        assert_eq!(read("x://h?password=true", "").unwrap().password, "true");
        assert_eq!(read("x://h", "version = 5").unwrap().version, Version::Five, "a name that is a number");
    }

    #[test]
    fn a_wrong_value_is_refused_with_its_keys_and_without_itself() {
        for (url, options, wanted) in [
            ("x://h?port=secret", "", "[x]: `port`: invalid type, expected a whole number from 0 to 65535"),
            ("x://h?port=70000", "", "[x]: `port`: invalid value, expected a whole number from 0 to 65535"),
            ("x://h?level=hihg", "", "[x] has the unknown value `hihg` of `level`; did you mean `high`?"),
            ("x://h", "level = 7", "[x] has the unknown value `7` of `level`; known are low, high"),
            ("x://h", "level = true", "[x]: `level`: invalid type, expected a name in quotes"),
            (
                "x://h",
                "inner.size = \"big\"",
                "[x]: `inner.size`: invalid type, expected a whole number from 0 to 4294967295",
            ),
            ("x://h", "inner.siz = 1", "[x] has the unknown key `siz`; did you mean `size`?"),
            ("x://h", "password = 7", "[x]: `password`: invalid type, expected a text in quotes"),
            ("x://h", "names = [\"a\", 1]", "[x]: `names`: invalid type, expected a text in quotes"),
        ] {
            assert_eq!(read(url, options).unwrap_err().to_string(), wanted);
        }
    }
}
