//! Parse: what `#[handler(…)]` says, each key with its span.

use std::time::Duration;

use syn::parse::ParseStream;
use syn::{Attribute, Ident, LitStr, Token, Type};

use crate::argument::{Argument, Key, List};
use crate::errors::Errors;
use crate::krate::Krate;

static HANDLER: List = List {
    title: "`#[handler]`",
    example: "#[handler(message = …, group = \"…\")]",
    keys: &[
        Key::once("message", "message = OrderPlaced"),
        Key::once("messages", "messages(OrderPlaced, OrderPaid)"),
        Key::once("group", r#"group = "storage""#),
        Key::once("ephemeral", "ephemeral"),
        Key::once("name", r#"name = "store_orders""#),
        Key::once("concurrency", "concurrency = 8"),
        Key::once("order", r#"order = "key""#),
        Key::once("retry", "retry(immediate = 2, delayed = 5)"),
        Key::once("timeout", r#"timeout = "30s""#),
        Key::once("policy", r#"policy = "slow""#),
        Key::once("start", r#"start = "earliest""#),
        Key::repeated("subscribes", r#"subscribes = "device.*.telemetry""#),
        Key::repeated("publishes", "publishes(OrderShipped)"),
        Key::once("unhandled", r#"unhandled = "dead_letter""#),
        Key::once("component", r#"component = "shop.storage""#),
        Key::once("batch", r#"batch(size = 100, wait = "50ms")"#),
        Key::once("crate", "crate = my_framework::msgkit"),
    ],
};

static RETRY: List = List {
    title: "`retry`",
    example: "retry(immediate = 2, delayed = 5)",
    keys: &[Key::once("immediate", "immediate = 2"), Key::once("delayed", "delayed = 5")],
};

static BATCH: List = List {
    title: "`batch`",
    example: r#"batch(size = 100, wait = "50ms")"#,
    keys: &[Key::once("size", "size = 100"), Key::once("wait", r#"wait = "50ms""#)],
};

/// The most delayed retries that a policy allows.
const MAX_ROUNDS: u32 = 1000;

/// See `msgkit::policy::Order`.
#[derive(Clone, Copy)]
pub(super) enum Order {
    None,
    Overtake,
    Hold,
}

/// See `msgkit::transport::Start`.
#[derive(Clone, Copy)]
pub(super) enum Start {
    Latest,
    Earliest,
}

/// See `msgkit::policy::Unhandled`.
#[derive(Clone, Copy)]
pub(super) enum Unhandled {
    Skip,
    DeadLetter,
}

/// How often is tried again; what is not said is left to the policy.
#[derive(Default)]
pub(super) struct Retry {
    pub(super) immediate: Option<u32>,
    pub(super) delayed: Option<u32>,
}

/// How much is handled at once, as it was read.
pub(super) struct BatchKeys {
    pub(super) key: Ident,
    pub(super) size: Option<u32>,
    pub(super) wait: Option<Duration>,
}

/// The keys of `#[handler(…)]`.
#[derive(Default)]
pub(super) struct Attributes {
    pub(super) message: Option<(Ident, Type)>,
    pub(super) messages: Option<(Ident, Vec<Type>)>,
    pub(super) group: Option<LitStr>,
    pub(super) ephemeral: Option<Ident>,
    pub(super) name: Option<LitStr>,
    pub(super) concurrency: Option<u32>,
    pub(super) order: Option<Order>,
    pub(super) retry: Option<Retry>,
    pub(super) timeout: Option<Duration>,
    pub(super) policy: Option<LitStr>,
    pub(super) start: Option<(Ident, Start)>,
    pub(super) subscribes: Vec<LitStr>,
    pub(super) publishes: Vec<Type>,
    pub(super) unhandled: Option<Unhandled>,
    pub(super) component: Option<LitStr>,
    pub(super) batch: Option<BatchKeys>,
    pub(super) krate: Krate,
}

impl Attributes {
    /// Reads every `#[handler(…)]`; what cannot be read is left out and reported.
    pub(super) fn parse(attributes: &[Attribute], errors: &mut Errors) -> Self {
        let mut this = Self::default();
        HANDLER.read_attributes("handler", attributes, errors, &mut |argument, input, errors| {
            this.read(argument, input, errors)
        });
        this
    }

    fn read(&mut self, argument: &Argument, input: ParseStream<'_>, errors: &mut Errors) -> syn::Result<()> {
        let key = || argument.ident.clone();
        match argument.name() {
            "message" => self.message = Some((key(), argument.ty(input)?)),
            "messages" => {
                self.messages = Some((key(), argument.several(input, "message types in parentheses")?));
            }
            "group" => self.group = Some(argument.string(input)?),
            "ephemeral" => {
                argument.flag(input)?;
                self.ephemeral = Some(key());
            }
            "name" => self.name = Some(argument.string(input)?),
            "concurrency" => self.concurrency = Some(argument.integer(input, 1, u32::MAX)?),
            "order" => {
                let orders = [("key", Order::Overtake), ("key_hold", Order::Hold), ("none", Order::None)];
                self.order = Some(argument.choice(input, &orders)?);
            }
            "retry" => self.retry = Some(retry(argument, input, errors)?),
            "timeout" => self.timeout = Some(argument.duration(input)?),
            "policy" => self.policy = Some(argument.string(input)?),
            "start" => {
                let starts = [("latest", Start::Latest), ("earliest", Start::Earliest)];
                self.start = Some((key(), argument.choice(input, &starts)?));
            }
            "subscribes" if input.peek(Token![=]) => self.subscribes.push(argument.string(input)?),
            "subscribes" => self.subscribes.extend(argument.several(input, "patterns")?),
            "publishes" if input.peek(Token![=]) => self.publishes.push(argument.ty(input)?),
            "publishes" => self.publishes.extend(argument.several(input, "message types in parentheses")?),
            "unhandled" => {
                let choices = [("skip", Unhandled::Skip), ("dead_letter", Unhandled::DeadLetter)];
                self.unhandled = Some(argument.choice(input, &choices)?);
            }
            "component" => self.component = Some(argument.string(input)?),
            "batch" => self.batch = Some(batch(argument, input, errors)?),
            _ => self.krate = Krate(Some(argument.path(input)?)),
        }
        Ok(())
    }
}

fn retry(argument: &Argument, input: ParseStream<'_>, errors: &mut Errors) -> syn::Result<Retry> {
    let mut retry = Retry::default();
    RETRY.read_nested(argument, input, errors, &mut |argument, input, _| {
        match argument.name() {
            "immediate" => retry.immediate = Some(argument.integer(input, 0, u32::MAX)?),
            _ => retry.delayed = Some(argument.integer(input, 0, MAX_ROUNDS)?),
        }
        Ok(())
    })?;
    Ok(retry)
}

fn batch(argument: &Argument, input: ParseStream<'_>, errors: &mut Errors) -> syn::Result<BatchKeys> {
    let mut batch = BatchKeys { key: argument.ident.clone(), size: None, wait: None };
    let before = errors.count();
    BATCH.read_nested(argument, input, errors, &mut |argument, input, _| {
        match argument.name() {
            "size" => batch.size = Some(argument.integer(input, 1, u32::MAX)?),
            _ => batch.wait = Some(argument.duration(input)?),
        }
        Ok(())
    })?;
    // A key that is there, but wrong, is not missing.
    if errors.count() == before && (batch.size.is_none() || batch.wait.is_none()) {
        let missing = if batch.size.is_none() { "size" } else { "wait" };
        return Err(argument.error(format!("`batch` has no `{missing}`")));
    }
    Ok(batch)
}
