//! Media types of payloads.

use std::fmt;

use crate::text::Text;

/// How a payload is written, `datacontenttype`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ContentType {
    /// `application/json`, and what a payload without a media type is taken for.
    Json,
    /// `application/msgpack`.
    MessagePack,
    /// Any other media type, as it was written.
    Other(Text),
}

impl ContentType {
    /// Reads a media type; names are compared without case, parameters kept in [`ContentType::Other`] only.
    #[must_use]
    pub fn parse(media_type: &str) -> Self {
        if media_type == "application/json" {
            return Self::Json;
        }
        let essence = media_type.split(';').next().unwrap_or(media_type).trim();
        let plain = essence.len() == media_type.len();
        if plain && essence.eq_ignore_ascii_case("application/json") {
            Self::Json
        } else if plain
            && ["application/msgpack", "application/x-msgpack", "application/vnd.msgpack"]
                .iter()
                .any(|known| essence.eq_ignore_ascii_case(known))
        {
            Self::MessagePack
        } else {
            Self::Other(media_type.into())
        }
    }

    /// The media type.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::Json => "application/json",
            Self::MessagePack => "application/msgpack",
            Self::Other(media_type) => media_type,
        }
    }

    /// The media type without its parameters.
    #[must_use]
    pub fn essence(&self) -> &str {
        let media_type = self.as_str();
        media_type.split(';').next().unwrap_or(media_type).trim()
    }

    /// Whether the payload is a JSON text: `…/json` or `…+json`.
    #[must_use]
    pub fn is_json(&self) -> bool {
        if let Self::Json = self {
            return true;
        }
        let essence = self.essence();
        let ends = |suffix: &str| {
            essence.len() > suffix.len()
                && essence
                    .get(essence.len() - suffix.len()..)
                    .is_some_and(|end| end.eq_ignore_ascii_case(suffix))
        };
        ends("/json") || ends("+json")
    }

    /// Whether the payload is MessagePack, under any of its names.
    #[must_use]
    pub fn is_message_pack(&self) -> bool {
        match self {
            Self::MessagePack => true,
            Self::Json => false,
            Self::Other(_) => matches!(Self::parse(self.essence()), Self::MessagePack),
        }
    }
}

impl fmt::Display for ContentType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::ContentType;

    #[test]
    fn the_known_ones_are_read_without_case_and_without_parameters_only() {
        for json in ["application/json", "Application/JSON"] {
            assert_eq!(ContentType::parse(json), ContentType::Json, "{json}");
        }
        for packed in ["application/msgpack", "application/X-msgpack", "application/vnd.msgpack"] {
            assert_eq!(ContentType::parse(packed), ContentType::MessagePack, "{packed}");
        }
        for other in [
            "application/json; charset=utf-8",
            " application/json",
            "application/msgpack;v=1",
            "text/plain",
            "",
        ] {
            assert_eq!(ContentType::parse(other), ContentType::Other(other.into()));
            assert_eq!(ContentType::parse(other).as_str(), other, "as it was written");
        }
        assert_eq!(ContentType::Json.to_string(), "application/json");
        assert_eq!(ContentType::MessagePack.to_string(), "application/msgpack");
        assert_eq!(ContentType::parse("text/csv ; header=present").essence(), "text/csv");
    }

    #[test]
    fn json_and_message_pack_are_known_under_all_their_names() {
        for json in
            ["application/json", "application/json;v=1", "text/JSON", "application/problem+json", "x/ü+json"]
        {
            let read = ContentType::parse(json);
            assert!(read.is_json() && !read.is_message_pack(), "{json}");
        }
        for packed in ["application/msgpack", "application/x-msgpack; v=1"] {
            let read = ContentType::parse(packed);
            assert!(read.is_message_pack() && !read.is_json(), "{packed}");
        }
        for neither in
            ["text/plain", "json", "/json", "+json", "application/jsonl", "application/json+xml", "ü", ""]
        {
            let read = ContentType::parse(neither);
            assert!(!read.is_json() && !read.is_message_pack(), "{neither}");
        }
    }
}
