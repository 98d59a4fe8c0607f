//! The grammar of names, restated: this crate cannot depend on msgkit, which depends on it.
//!
//! `tests.rs` holds both against one table. The rules and their reasons are those of `msgkit::topic`,
//! `msgkit::transport::Group` and `msgkit::config::duration`.

#[cfg(test)]
mod tests;

use std::time::Duration;

/// The most bytes in a topic as a developer writes it.
const MAX_DECLARED: usize = 100;
/// The most bytes in a wire name.
const MAX_NAME: usize = 255;
/// The most bytes in a group.
const MAX_GROUP: usize = 48;

/// One segment of a topic template.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Segment {
    /// As it is written.
    Fixed(String),
    /// The name of the field between the braces.
    Field(String),
}

/// Reads a message's topic, `device.{device_id}.telemetry`.
pub(crate) fn template(text: &str) -> Result<Vec<Segment>, String> {
    length("topic", text)?;
    let mut segments = Vec::new();
    for (index, segment) in text.split('.').enumerate() {
        let field = segment.strip_prefix('{').and_then(|rest| rest.strip_suffix('}'));
        segments.push(match field {
            Some(_) if index == 0 => {
                return Err(format!(
                    "topic `{text}` begins with the dynamic segment `{segment}`; begin with a fixed one, the namespace"
                ));
            }
            Some(name) if name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') => {
                return Err(format!(
                    "segment `{segment}` of topic `{text}` names no field; write one field's name between the braces"
                ));
            }
            Some(name) => Segment::Field(name.to_owned()),
            None => {
                plain("topic", text, segment)?;
                Segment::Fixed(segment.to_owned())
            }
        });
    }
    first("topic", text)?;
    Ok(segments)
}

/// Checks a pattern, `device.*.>`.
pub(crate) fn pattern(text: &str) -> Result<(), String> {
    length("pattern", text)?;
    let mut segments = text.split('.').peekable();
    while let Some(segment) = segments.next() {
        match segment {
            "*" => {}
            ">" if segments.peek().is_none() => {}
            ">" => {
                return Err(format!(
                    "pattern `{text}` has `>` before its end; `>` stands for the rest of a topic and is legal as the \
                     last segment only"
                ));
            }
            "#" | "+" | "**" => {
                return Err(format!(
                    "pattern `{text}` has the wildcard `{segment}`; write `*` for one segment and a trailing `>` for \
                     one or more"
                ));
            }
            _ if segment.contains('~') => escaped(text, segment)?,
            _ => plain("pattern", text, segment)?,
        }
    }
    first("pattern", text)
}

/// Checks a component's name, dotted as a topic is.
pub(crate) fn component(text: &str) -> Result<(), String> {
    length("component", text)?;
    text.split('.').try_for_each(|segment| plain("component", text, segment))?;
    first("component", text)
}

/// Checks a group's or a handler's name.
pub(crate) fn group(what: &str, text: &str) -> Result<(), String> {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
    if text.is_empty() || text.len() > MAX_GROUP || !text.bytes().all(legal) {
        return Err(format!(
            "{what} {text:?} is no name that every broker can carry; use 1 to {MAX_GROUP} of A-Z a-z 0-9 _ -"
        ));
    }
    Ok(())
}

/// Checks a message's wire name, CloudEvents' `type`: foreign names are legal too, so the rule is a wide one.
pub(crate) fn wire_name(text: &str) -> Result<(), String> {
    if text.is_empty() {
        return Err("the name is empty; write a dotted one, like `orders.placed`".to_owned());
    }
    if text.len() > MAX_NAME {
        return Err(format!("the name has {} bytes, more than {MAX_NAME}; shorten it", text.len()));
    }
    match text.chars().find(|c| !c.is_ascii_graphic()) {
        Some(bad) => Err(format!(
            "name `{text}` holds {bad:?}; use visible ASCII without spaces, like `orders.placed`"
        )),
        None => Ok(()),
    }
}

/// Whether a wire name ends in a version, `….v2`.
pub(crate) fn is_versioned(name: &str) -> bool {
    name.rsplit_once(".v")
        .is_some_and(|(_, version)| !version.is_empty() && version.bytes().all(|byte| byte.is_ascii_digit()))
}

/// Reads a duration, `1h 30m`.
pub(crate) fn duration(text: &str) -> Option<Duration> {
    const UNITS: [(&str, u64); 4] = [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000)];
    let mut units = UNITS.len();
    let mut total = 0_u64;
    let mut rest = text.trim();
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let number: u64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let unit = rest.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(rest.len());
        // Each unit is smaller than the one before it.
        let place = UNITS[..units].iter().position(|(name, _)| *name == &rest[..unit])?;
        total = total.checked_add(number.checked_mul(UNITS[place].1)?)?;
        units = place;
        rest = rest[unit..].trim_start();
    }
    Some(Duration::from_millis(total))
}

/// The one of `known` that looks like `wrong`, if one does; the rule is the one that configuration uses.
pub(crate) fn nearest<'a>(wrong: &str, known: &[&'a str]) -> Option<&'a str> {
    known
        .iter()
        .map(|name| (strsim::damerau_levenshtein(wrong, name), *name))
        .filter(|(distance, name)| *distance <= 1 + name.len().max(wrong.len()) / 4)
        // A name that shares no letter is no suggestion, however short it is.
        .filter(|(distance, name)| *distance < name.len().max(wrong.len()))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name)
}

fn length(what: &str, text: &str) -> Result<(), String> {
    if text.is_empty() {
        return Err(format!("the {what} is empty; write at least one segment, like `orders`"));
    }
    if text.len() > MAX_DECLARED {
        return Err(format!(
            "the {what} has {} bytes, more than the {MAX_DECLARED} that every broker can carry; shorten its segments",
            text.len()
        ));
    }
    Ok(())
}

fn plain(what: &str, text: &str, segment: &str) -> Result<(), String> {
    if segment.is_empty() {
        return Err(format!(
            "{what} `{text}` has an empty segment; put exactly one `.` between segments and none at the ends"
        ));
    }
    if let Some(bad) = segment.chars().find(|c| !c.is_ascii_alphanumeric() && !matches!(c, '_' | '-')) {
        let hint = match (what, bad) {
            (_, '/') => "; segments are separated by `.`, a transport turns it into its own separator",
            ("topic", '*' | '>' | '#' | '+') => {
                "; wildcards belong to a handler's pattern, `#[handler(subscribes = \"…\")]`"
            }
            ("topic", '{' | '}') => {
                "; a field in braces is a segment of its own, `device.{device_id}.telemetry`"
            }
            _ => "",
        };
        return Err(format!(
            "segment `{segment}` of {what} `{text}` holds {bad:?}; a segment is made of A-Z a-z 0-9 _ -{hint}"
        ));
    }
    if segment == "_" {
        return Err(format!(
            "{what} `{text}` has the segment `_`, which is reserved for dynamic segments; use another name"
        ));
    }
    Ok(())
}

/// A segment that a template rendered, `AA~3ABB`: whole escapes of UTF-8.
fn escaped(text: &str, segment: &str) -> Result<(), String> {
    let broken = || {
        format!(
            "segment `{segment}` of pattern `{text}` has a broken escape; `~` must be followed by two upper-case hex \
             digits"
        )
    };
    if segment == "~" {
        return Ok(());
    }
    let hex = |byte: Option<u8>| match byte? {
        byte @ b'0'..=b'9' => Some(byte - b'0'),
        byte @ b'A'..=b'F' => Some(byte - b'A' + 10),
        _ => None,
    };
    let mut bytes = Vec::with_capacity(segment.len());
    let mut rest = segment.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'~' => hex(rest.next())
                .zip(hex(rest.next()))
                .map(|(high, low)| high << 4 | low)
                .ok_or_else(broken)?,
            byte if byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-') => byte,
            _ => return plain("pattern", text, segment),
        });
    }
    String::from_utf8(bytes).map(drop).map_err(|_| broken())
}

fn first(what: &str, text: &str) -> Result<(), String> {
    let first = text.split('.').next().unwrap_or(text);
    if first == "msgkit" || first == "amq" || first.starts_with('$') || first.starts_with("__") {
        return Err(format!(
            "{what} `{text}` begins with `{first}`, which is reserved; begin with a namespace of your own"
        ));
    }
    Ok(())
}
