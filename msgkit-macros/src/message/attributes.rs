//! Parse: what `#[message(…)]` says, each key with its span.

use syn::{Attribute, Ident, LitStr, Member, Type};

use crate::argument::{Key, List};
use crate::errors::Errors;
use crate::krate::Krate;

static MESSAGE: List = List {
    title: "`#[message]`",
    example: "#[message(name = \"…\")]",
    keys: &[
        Key::once("name", r#"name = "device.telemetry.reported""#),
        Key::once("topic", r#"topic = "device.{device_id}.telemetry""#),
        Key::once("key", "key = device_id"),
        Key::once("subject", "subject = device_id"),
        Key::once("version", "version = 2"),
        Key::once("codec", "codec = MessagePack"),
        Key::once("crate", "crate = my_framework::msgkit"),
    ],
};

/// The keys of `#[message(…)]`.
#[derive(Default)]
pub(super) struct Attributes {
    pub(super) name: Option<LitStr>,
    pub(super) topic: Option<LitStr>,
    pub(super) key: Option<Member>,
    pub(super) subject: Option<Member>,
    /// With the key itself, for its span.
    pub(super) version: Option<(Ident, u32)>,
    pub(super) codec: Option<Type>,
    pub(super) krate: Krate,
}

impl Attributes {
    /// Reads every `#[message(…)]`; what cannot be read is left out and reported.
    pub(super) fn parse(attributes: &[Attribute], errors: &mut Errors) -> Self {
        let mut this = Self::default();
        MESSAGE.read_attributes("message", attributes, errors, &mut |argument, input, _| {
            match argument.name() {
                "name" => this.name = Some(argument.string(input)?),
                "topic" => this.topic = Some(argument.string(input)?),
                "key" => this.key = Some(argument.value(input, "a field, without quotes")?),
                "subject" => this.subject = Some(argument.value(input, "a field, without quotes")?),
                "version" => {
                    let version = argument.integer(input, 0, u32::MAX)?;
                    if version < 2 {
                        return Err(argument.error("versions count from 2, as the first one has no suffix"));
                    }
                    this.version = Some((argument.ident.clone(), version));
                }
                "codec" => this.codec = Some(argument.ty(input)?),
                _ => this.krate = Krate(Some(argument.path(input)?)),
            }
            Ok(())
        });
        this
    }
}
