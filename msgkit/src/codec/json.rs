//! JSON, by `serde_json`.

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::Codec;
use crate::envelope::ContentType;
use crate::error::BoxError;

/// The default codec.
#[derive(Debug, Clone, Copy)]
pub struct Json;

impl Codec for Json {
    const CONTENT_TYPE: ContentType = ContentType::Json;

    fn reads(content_type: &ContentType) -> bool {
        content_type.is_json()
    }

    fn write<T: Serialize>(value: &T, buffer: &mut Vec<u8>) -> Result<(), BoxError> {
        Ok(serde_json::to_writer(buffer, value)?)
    }

    fn read<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, BoxError> {
        // A JSON text is UTF-8 (RFC 8259, section 8.1), all of it: looked at once instead of string by string, and with the
        // same verdict for each consumer, whichever fields it reads.
        Ok(serde_json::from_str(std::str::from_utf8(bytes)?)?)
    }
}
