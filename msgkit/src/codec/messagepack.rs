//! MessagePack, by `rmp-serde`.

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::Codec;
use crate::envelope::ContentType;
use crate::error::BoxError;

/// MessagePack with field names: a reader that does not know a new field skips it.
#[derive(Debug, Clone, Copy)]
pub struct MessagePack;

impl Codec for MessagePack {
    const CONTENT_TYPE: ContentType = ContentType::MessagePack;

    fn reads(content_type: &ContentType) -> bool {
        content_type.is_message_pack()
    }

    fn write<T: Serialize>(value: &T, buffer: &mut Vec<u8>) -> Result<(), BoxError> {
        Ok(rmp_serde::encode::write_named(buffer, value)?)
    }

    fn read<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, BoxError> {
        // The library's own `from_slice` overlooks what follows the value.
        let mut deserializer = rmp_serde::Deserializer::from_read_ref(bytes);
        let value = T::deserialize(&mut deserializer)?;
        let left = deserializer.get_ref().len();
        if left > 0 {
            return Err(format!("{left} bytes follow the value").into());
        }
        Ok(value)
    }
}
