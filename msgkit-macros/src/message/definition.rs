//! Validate: a message that cannot be wrong any more.

use proc_macro2::Span;
use syn::ext::IdentExt;
use syn::spanned::Spanned;
use syn::{Data, DeriveInput, Ident, LitStr, Member, Type};

use super::attributes::Attributes;
use super::field::{Field, Fields, plain_name};
use crate::errors::Errors;
use crate::grammar::{self, Segment};
use crate::krate::Krate;

/// A part of a topic, in its order; the dots are in the texts.
pub(super) enum Part<'a> {
    Text(String),
    Field(Field<'a>),
}

/// A message: all that its impl needs.
pub(super) struct Definition<'a> {
    pub(super) ident: &'a Ident,
    pub(super) krate: Krate,
    /// The wire name, version and all.
    pub(super) name: String,
    /// The topic as it is written.
    pub(super) topic: String,
    pub(super) parts: Vec<Part<'a>>,
    pub(super) key: Option<Field<'a>>,
    pub(super) subject: Option<Field<'a>>,
    pub(super) codec: Option<Type>,
}

impl<'a> Definition<'a> {
    /// Checks `attributes` against `input`; without a name or a topic there is no definition, just the path to msgkit.
    pub(super) fn validate(
        input: &'a DeriveInput,
        attributes: Attributes,
        errors: &mut Errors,
    ) -> Result<Self, Krate> {
        let Attributes { name, topic, key, subject, version, codec, krate } = attributes;
        let fields = Fields::of(input);
        let is_enum = matches!(input.data, Data::Enum(_));
        let key = key.and_then(|member| selected("key", &member, &fields, is_enum, errors));
        let mut subject = subject.and_then(|member| selected("subject", &member, &fields, is_enum, errors));
        if let Some(subject) = &mut subject {
            subject.blame(key.as_ref());
        }
        // A name that could not be read, or whose key was misspelt, was reported and is not missing as well.
        if name.is_none() && errors.is_empty() {
            let message = format!(
                "message `{0}` has no name; add `#[message(name = \"namespace.{1}\")]`",
                input.ident,
                crate::handler::snake_case(&input.ident.unraw().to_string())
            );
            errors.on(&input.ident, message);
        }
        let wire_name = name.as_ref().and_then(|name| wire_name(name, version, errors));
        let topic = match (&topic, &name, &wire_name) {
            (Some(topic), _, _) => declared(topic, &fields, is_enum, errors),
            (None, Some(name), Some(_)) => implied(name, errors),
            _ => None,
        };
        let (Some((topic, mut parts)), Some(name)) = (topic, wire_name) else { return Err(krate) };
        for part in &mut parts {
            if let Part::Field(field) = part {
                field.blame(subject.as_ref());
                field.blame(key.as_ref());
            }
        }
        Ok(Self { ident: &input.ident, krate, name, topic, parts, key, subject, codec })
    }
}

/// The field that `member` names.
fn selected<'a>(
    what: &str,
    member: &Member,
    fields: &Fields<'a>,
    is_enum: bool,
    errors: &mut Errors,
) -> Option<Field<'a>> {
    if is_enum {
        errors.on(
            member,
            format!("an enum has no field that could be its {what}; put the enum into a struct that has one"),
        );
        return None;
    }
    let span = member.span();
    fields.find(&plain_name(member), span).map_err(|message| errors.at(span, message)).ok()
}

/// The name with its version.
fn wire_name(name: &LitStr, version: Option<(Ident, u32)>, errors: &mut Errors) -> Option<String> {
    let text = name.value();
    if let Err(message) = grammar::wire_name(&text) {
        errors.on(name, message);
        return None;
    }
    match version {
        Some((key, _)) if grammar::is_versioned(&text) => {
            errors.on(key, format!("name `{text}` ends in a version already; leave `version` or that out"));
            None
        }
        Some((_, version)) => Some(format!("{text}.v{version}")),
        None => Some(text),
    }
}

/// The topic as `topic = …` gives it.
fn declared<'a>(
    topic: &LitStr,
    fields: &Fields<'a>,
    is_enum: bool,
    errors: &mut Errors,
) -> Option<(String, Vec<Part<'a>>)> {
    let text = topic.value();
    let parts = grammar::template(&text).and_then(|segments| parts(segments, topic.span(), fields, is_enum));
    match parts {
        Ok(parts) => Some((text, parts)),
        Err(message) => {
            errors.on(topic, message);
            None
        }
    }
}

/// The topic that is called like the message.
fn implied<'a>(name: &LitStr, errors: &mut Errors) -> Option<(String, Vec<Part<'a>>)> {
    let text = name.value();
    match grammar::template(&text) {
        Ok(segments) if segments.iter().all(|segment| matches!(segment, Segment::Fixed(_))) => {
            return Some((text.clone(), vec![Part::Text(text)]));
        }
        Ok(_) => errors
            .on(name, format!("name `{text}` has a field in it; fields in braces belong to `topic = …`")),
        Err(message) => errors.on(name, format!("the name is no topic, so add `topic = …`: {message}")),
    }
    None
}

/// Joins what stands between two fields, so that it is written at once.
fn parts<'a>(
    segments: Vec<Segment>,
    span: Span,
    fields: &Fields<'a>,
    is_enum: bool,
) -> Result<Vec<Part<'a>>, String> {
    let mut parts = Vec::new();
    let mut fixed = String::new();
    for (index, segment) in segments.into_iter().enumerate() {
        if index > 0 {
            fixed.push('.');
        }
        match segment {
            Segment::Fixed(segment) => fixed.push_str(&segment),
            Segment::Field(name) if is_enum => {
                return Err(format!(
                    "the variants of an enum have no common field `{name}`; give the enum a fixed topic, or put it into a \
                     struct that has the field"
                ));
            }
            Segment::Field(name) => {
                let field = fields.find(&name, span)?;
                if field.is_optional() {
                    return Err(format!(
                        "field `{name}` is optional, and a topic needs a value each time; take another field, or one that is \
                         no `Option`"
                    ));
                }
                parts.push(Part::Text(std::mem::take(&mut fixed)));
                parts.push(Part::Field(field));
            }
        }
    }
    if !fixed.is_empty() {
        parts.push(Part::Text(fixed));
    }
    Ok(parts)
}
