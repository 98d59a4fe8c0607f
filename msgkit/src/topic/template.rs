//! A message's topic with fields in it: `device.{device_id}.telemetry`.

use std::fmt;

use super::{DYNAMIC, MAX_DECLARED, MAX_RENDERED, Pattern, Topic, check_first, check_length, check_segment};
use crate::error::Error;
use crate::text::Text;

/// The topic of a message type, whose dynamic segments are filled from the message's fields.
///
/// The first segment is never dynamic. On brokers where a topic costs resources, all values of a dynamic segment
/// share one destination in which the segment is `_`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicTemplate(Text);

impl TopicTemplate {
    /// Reads a template.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidName`](crate::ErrorKind::InvalidName), naming the segment and the rule it breaks.
    pub fn new(template: impl Into<Text>) -> Result<Self, Error> {
        let template = template.into();
        check_length(&template, MAX_DECLARED)?;
        for (index, segment) in template.split('.').enumerate() {
            match field(segment) {
                Some(_) if index == 0 => {
                    return Err(Error::invalid_name(format!(
                        "topic `{template}` begins with the dynamic segment `{segment}`; begin with a fixed one, the namespace"
                    )));
                }
                Some(name)
                    if name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') =>
                {
                    return Err(Error::invalid_name(format!(
                        "segment `{segment}` of topic `{template}` names no field; write one field's name between the braces"
                    )));
                }
                Some(_) => {}
                None => check_segment(&template, segment, false)?,
            }
        }
        check_first(&template)?;
        Ok(Self(template))
    }

    /// The template as it is written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The names of the fields, first to last.
    pub fn fields(&self) -> impl Iterator<Item = &str> {
        self.0.split('.').filter_map(field)
    }

    /// Whether there is a dynamic segment.
    #[must_use]
    pub fn is_dynamic(&self) -> bool {
        self.fields().next().is_some()
    }

    /// The pattern that matches every topic of the template.
    #[must_use]
    pub fn pattern(&self) -> Pattern {
        if !self.is_dynamic() {
            return Pattern::trusted(self.0.clone());
        }
        Pattern::trusted(self.replaced("*").into())
    }

    /// The name of the destination that all topics of the template share: dynamic segments are `_`.
    #[must_use]
    pub fn destination(&self) -> Text {
        if self.is_dynamic() { self.replaced(DYNAMIC).into() } else { self.0.clone() }
    }

    fn replaced(&self, with: &str) -> String {
        let mut name = String::with_capacity(self.0.len());
        for (index, segment) in self.0.split('.').enumerate() {
            if index > 0 {
                name.push('.');
            }
            name.push_str(if field(segment).is_some() { with } else { segment });
        }
        name
    }

    /// The topic with `values` in the place of the fields, in order; each is written by [`Topic::render_segment`].
    ///
    /// # Errors
    /// [`ErrorKind::InvalidName`](crate::ErrorKind::InvalidName) where the number of values is not that of the fields,
    /// or where the topic gets longer than 255 bytes.
    pub fn render(&self, values: &[&str]) -> Result<Topic, Error> {
        let mut name = String::with_capacity(self.0.len() + 16);
        let mut values_left = values.iter();
        for (index, segment) in self.0.split('.').enumerate() {
            if index > 0 {
                name.push('.');
            }
            match field(segment) {
                None => name.push_str(segment),
                Some(field) => match values_left.next() {
                    Some(value) => name.push_str(&Topic::render_segment(value)),
                    None => {
                        return Err(Error::invalid_name(format!(
                            "topic `{}` got no value for `{field}`",
                            self.0
                        )));
                    }
                },
            }
        }
        if values_left.next().is_some() {
            return Err(Error::invalid_name(format!(
                "topic `{}` got more values than it has fields",
                self.0
            )));
        }
        check_length(&name, MAX_RENDERED)?;
        Ok(Topic::trusted(name.into()))
    }
}

fn field(segment: &str) -> Option<&str> {
    segment.strip_prefix('{')?.strip_suffix('}')
}

impl fmt::Display for TopicTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
