//! Validate: a handler that cannot be wrong any more.

use std::time::Duration;

use quote::ToTokens;
use syn::ext::IdentExt;
use syn::{DeriveInput, Ident, LitStr, Type};

use super::attributes::{Attributes, BatchKeys, Order, Retry, Start, Unhandled};
use crate::errors::Errors;
use crate::grammar;
use crate::krate::Krate;

/// How much is handled at once.
pub(super) struct Batch {
    pub(super) size: u32,
    pub(super) wait: Duration,
}

/// A handler: all that its impl needs.
pub(super) struct Definition {
    pub(super) krate: Krate,
    pub(super) name: String,
    /// `None` = ephemeral.
    pub(super) group: Option<String>,
    pub(super) messages: Vec<Type>,
    pub(super) concurrency: Option<u32>,
    pub(super) order: Option<Order>,
    pub(super) retry: Option<Retry>,
    pub(super) timeout: Option<Duration>,
    pub(super) policy: Option<LitStr>,
    pub(super) start: Option<Start>,
    pub(super) subscribes: Vec<LitStr>,
    pub(super) publishes: Vec<Type>,
    pub(super) unhandled: Option<Unhandled>,
    pub(super) component: Option<LitStr>,
    pub(super) batch: Option<Batch>,
}

impl Definition {
    /// Checks `attributes` against `input`; without messages or a group there is no definition, just the path to msgkit.
    pub(super) fn validate(
        input: &DeriveInput,
        attributes: Attributes,
        errors: &mut Errors,
    ) -> Result<Self, Krate> {
        let Attributes {
            message,
            messages,
            group,
            ephemeral,
            name,
            concurrency,
            order,
            retry,
            timeout,
            policy,
            start,
            subscribes,
            publishes,
            unhandled,
            component,
            batch,
            krate,
        } = attributes;
        // Whatever could not be read was reported, and is not missing as well.
        if errors.is_empty() {
            let handles = message.is_some() || messages.is_some();
            missing(&input.ident, handles, group.is_some() || ephemeral.is_some(), errors);
        }
        check_each(&subscribes, errors, grammar::pattern);
        check_each(&component, errors, grammar::component);
        check_each(&policy, errors, |name| {
            if name.is_empty() {
                Err("the policy's name is empty; leave `policy` out for the default".into())
            } else {
                Ok(())
            }
        });
        let name = handler_name(&input.ident, name, errors);
        let messages = messages_of(message, messages, errors);
        let batch = batch.and_then(|keys| batch_of(&keys, messages.as_deref(), errors));
        match (&group, &ephemeral) {
            (Some(_), Some(ephemeral)) => {
                errors.on(ephemeral, "a handler is in a group or `ephemeral`, not both; leave one out");
            }
            (Some(group), None) => check_each([group], errors, |name| grammar::group("group", name)),
            _ => {}
        }
        if let (Some(_), Some((start, _))) = (&ephemeral, &start) {
            errors
                .on(start, "an `ephemeral` handler begins with what comes next; `start` belongs to a group");
        }
        let (Some(messages), true) = (messages, errors.is_empty()) else { return Err(krate) };
        Ok(Self {
            krate,
            name,
            group: group.map(|group| group.value()),
            messages,
            concurrency,
            order,
            retry,
            timeout,
            policy,
            start: start.map(|(_, start)| start),
            subscribes,
            publishes,
            unhandled,
            component,
            batch,
        })
    }
}

/// `StoreTelemetry` → `store_telemetry`, `HTTPGateway` → `http_gateway`.
pub(crate) fn snake_case(name: &str) -> String {
    let chars: Vec<char> = name.chars().collect();
    let mut snake = String::with_capacity(name.len() + 4);
    for (index, &char) in chars.iter().enumerate() {
        let word_begins = char.is_uppercase()
            && index > 0
            && chars[index - 1] != '_'
            && (!chars[index - 1].is_uppercase()
                || chars.get(index + 1).is_some_and(|next| next.is_lowercase()));
        if word_begins {
            snake.push('_');
        }
        snake.extend(char.to_lowercase());
    }
    snake
}

fn check_each<'a>(
    literals: impl IntoIterator<Item = &'a LitStr>,
    errors: &mut Errors,
    rule: impl Fn(&str) -> Result<(), String>,
) {
    for literal in literals {
        if let Err(message) = rule(&literal.value()) {
            errors.on(literal, message);
        }
    }
}

fn handler_name(ident: &Ident, name: Option<LitStr>, errors: &mut Errors) -> String {
    match name {
        Some(name) => {
            check_each([&name], errors, |name| grammar::group("handler", name));
            name.value()
        }
        None => {
            let name = snake_case(&ident.unraw().to_string());
            if let Err(message) = grammar::group("handler", &name) {
                errors.on(ident, format!("{message}: give it a `name = \"…\"`"));
            }
            name
        }
    }
}

fn messages_of(
    message: Option<(Ident, Type)>,
    messages: Option<(Ident, Vec<Type>)>,
    errors: &mut Errors,
) -> Option<Vec<Type>> {
    let messages = match (message, messages) {
        (Some(_), Some((key, _))) => {
            errors.on(key, "`message` and `messages` are both given; put every type into `messages(…)`");
            return None;
        }
        (Some((_, message)), None) => vec![message],
        (None, Some((_, messages))) => messages,
        (None, None) => return None,
    };
    let mut seen = Vec::new();
    for message in &messages {
        let text = message.to_token_stream().to_string();
        if seen.contains(&text) {
            errors.on(message, format!("`{text}` is listed twice; keep one"));
        }
        seen.push(text);
    }
    Some(messages)
}

fn batch_of(keys: &BatchKeys, messages: Option<&[Type]>, errors: &mut Errors) -> Option<Batch> {
    if messages.is_some_and(|messages| messages.len() > 1) {
        errors.on(
            &keys.key,
            "a batch holds messages of one type; write one handler for each, or leave `batch` out",
        );
        return None;
    }
    Some(Batch { size: keys.size?, wait: keys.wait? })
}

/// One error for all that is missing.
fn missing(ident: &Ident, handles: bool, grouped: bool, errors: &mut Errors) {
    let message = match (handles, grouped) {
        (true, true) => return,
        (false, true) => {
            format!("handler `{ident}` handles nothing; add `message = …` or `messages(…)` to `#[handler]`")
        }
        (true, false) => format!(
            "handler `{ident}` has no group; add `group = \"…\"` to `#[handler]`, or `ephemeral` if every instance takes \
             every message"
        ),
        (false, false) => {
            format!("handler `{ident}` handles nothing; add `#[handler(message = …, group = \"…\")]`")
        }
    };
    errors.on(ident, message);
}

#[cfg(test)]
mod tests {
    use super::snake_case;

    #[test]
    fn type_names_become_handler_names() {
        for (name, expected) in [
            ("StoreTelemetry", "store_telemetry"),
            ("HTTPGateway", "http_gateway"),
            ("Store2Rows", "store2_rows"),
            ("Api_Gateway", "api_gateway"),
            ("X", "x"),
        ] {
            assert_eq!(snake_case(name), expected);
        }
    }
}
