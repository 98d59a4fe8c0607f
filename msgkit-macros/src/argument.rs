//! The language of the attributes: `key`, `key = value` and `key(…)`, separated by commas.
//!
//! A list knows its keys, so that a wrong one is answered with the nearest, and each key knows how it is written, so that a
//! wrong value is answered with a right one. After a mistake the list goes on with the next key.

use std::time::Duration;

use proc_macro2::{Group, TokenStream, TokenTree};
use syn::ext::IdentExt;
use syn::parse::{Parse, ParseStream, Parser};
use syn::punctuated::Punctuated;
use syn::{Attribute, Data, Fields, Ident, LitInt, LitStr, Meta, Path, Token, Type, parenthesized};

use crate::errors::Errors;
use crate::grammar;

/// A key that a list may hold.
pub(crate) struct Key {
    /// As it is written.
    pub(crate) name: &'static str,
    /// How it is written with its value.
    pub(crate) example: &'static str,
    /// Whether it may be given more than once.
    pub(crate) repeats: bool,
}

impl Key {
    /// A key that is given once.
    pub(crate) const fn once(name: &'static str, example: &'static str) -> Self {
        Self { name, example, repeats: false }
    }

    /// A key that may be repeated.
    pub(crate) const fn repeated(name: &'static str, example: &'static str) -> Self {
        Self { name, example, repeats: true }
    }
}

/// What a list is called, and its keys.
pub(crate) struct List {
    /// `#[message]`, `retry`.
    pub(crate) title: &'static str,
    /// How it is written with what must be in it.
    pub(crate) example: &'static str,
    /// Every key.
    pub(crate) keys: &'static [Key],
}

/// One key as it was found; its value comes next in the input.
pub(crate) struct Argument {
    /// Where it was found.
    pub(crate) ident: Ident,
    key: &'static Key,
}

/// Reads one value; the list takes care of everything around it.
pub(crate) type ReadValue<'a> = dyn FnMut(&Argument, ParseStream<'_>, &mut Errors) -> syn::Result<()> + 'a;

impl List {
    /// Reads every `#[name(…)]` among `attributes`.
    pub(crate) fn read_attributes(
        &'static self,
        name: &str,
        attributes: &[Attribute],
        errors: &mut Errors,
        value: &mut ReadValue<'_>,
    ) {
        let mut seen = Vec::new();
        for attribute in attributes.iter().filter(|attribute| attribute.path().is_ident(name)) {
            let Meta::List(list) = &attribute.meta else {
                errors.on(&attribute.meta, format!("{} has no keys; write `{}`", self.title, self.example));
                continue;
            };
            let read = list.parse_args_with(|input: ParseStream<'_>| {
                self.read(input, &mut seen, errors, value);
                Ok(())
            });
            errors.keep(read);
        }
    }

    /// Reads the list in the parentheses after `argument`, `retry(…)`.
    pub(crate) fn read_nested(
        &'static self,
        argument: &Argument,
        input: ParseStream<'_>,
        errors: &mut Errors,
        value: &mut ReadValue<'_>,
    ) -> syn::Result<()> {
        if !input.peek(syn::token::Paren) {
            return Err(argument.wrong(input, "keys in parentheses"));
        }
        let content;
        parenthesized!(content in input);
        if content.is_empty() {
            return Err(argument.error(format!("`{}` is empty", argument.key.name)));
        }
        self.read(&content, &mut Vec::new(), errors, value);
        Ok(())
    }

    fn read(
        &'static self,
        input: ParseStream<'_>,
        seen: &mut Vec<&'static str>,
        errors: &mut Errors,
        value: &mut ReadValue<'_>,
    ) {
        while !input.is_empty() {
            let read = self.key(input, seen).and_then(|argument| {
                value(&argument, input, errors)?;
                after_value(input)
            });
            if errors.keep(read).is_none() {
                skip_value(input);
            }
            // What is not a comma was reported by `after_value` or skipped, so this fails at the end only.
            let _ = input.parse::<Token![,]>();
        }
    }

    fn key(&'static self, input: ParseStream<'_>, seen: &mut Vec<&'static str>) -> syn::Result<Argument> {
        if !input.peek(Ident::peek_any) {
            let found = skip_value(input);
            let keys = self.names().join("`, `");
            let message = format!("{} is made of keys; write one of `{keys}`", self.title);
            return Err(syn::Error::new_spanned(found, message));
        }
        let ident = input.call(Ident::parse_any)?;
        let name = ident.to_string();
        let Some(key) = self.keys.iter().find(|key| key.name == name) else {
            let known = grammar::nearest(&name, &self.names()).map_or_else(
                || format!("it has `{}`", self.names().join("`, `")),
                |nearest| format!("did you mean `{nearest}`?"),
            );
            return Err(syn::Error::new_spanned(
                &ident,
                format!("{} has no key `{name}`; {known}", self.title),
            ));
        };
        if seen.contains(&key.name) && !key.repeats {
            return Err(syn::Error::new_spanned(&ident, format!("`{name}` is given twice; keep one")));
        }
        seen.push(key.name);
        Ok(Argument { ident, key })
    }

    fn names(&self) -> Vec<&'static str> {
        self.keys.iter().map(|key| key.name).collect()
    }
}

/// Refuses `#[name(…)]` on the fields and variants of `data`, where nobody would read it.
pub(crate) fn refuse_inside(name: &str, data: &Data, errors: &mut Errors) {
    let mut refuse = |attributes: &[Attribute]| {
        for attribute in attributes.iter().filter(|attribute| attribute.path().is_ident(name)) {
            let message =
                format!("`#[{name}]` belongs to the whole type; move its keys to the one above the type");
            errors.on(&attribute.meta, message);
        }
    };
    let mut refuse_all = |fields: &Fields| fields.iter().for_each(|field| refuse(&field.attrs));
    match data {
        Data::Struct(data) => refuse_all(&data.fields),
        Data::Enum(data) => {
            data.variants.iter().for_each(|variant| refuse_all(&variant.fields));
            data.variants.iter().for_each(|variant| refuse(&variant.attrs));
        }
        Data::Union(_) => {}
    }
}

impl Argument {
    /// The key.
    pub(crate) fn name(&self) -> &'static str {
        self.key.name
    }

    /// A mistake of this key as a whole: `problem`, and how to write it.
    pub(crate) fn error(&self, problem: impl std::fmt::Display) -> syn::Error {
        syn::Error::new_spanned(&self.ident, format!("{problem}; write `{}`", self.key.example))
    }

    /// The mistake of a value that is not `wanted`, on the value.
    fn wrong(&self, input: ParseStream<'_>, wanted: &str) -> syn::Error {
        let found = skip_value(input);
        let message = format!("`{}` takes {wanted}; write `{}`", self.key.name, self.key.example);
        if found.is_empty() {
            syn::Error::new_spanned(&self.ident, message)
        } else {
            syn::Error::new_spanned(found, message)
        }
    }

    /// The `=` before a value that is `wanted`.
    fn equals(&self, input: ParseStream<'_>, wanted: &str) -> syn::Result<()> {
        if input.parse::<Option<Token![=]>>()?.is_none() {
            return Err(self.wrong(input, wanted));
        }
        Ok(())
    }

    /// Reads `= value`, where `value` is `wanted`.
    pub(crate) fn value<T: Parse>(&self, input: ParseStream<'_>, wanted: &str) -> syn::Result<T> {
        self.equals(input, wanted)?;
        // The fork keeps the whole value for the error's span.
        match input.fork().parse::<T>() {
            Ok(_) => input.parse(),
            Err(_) => Err(self.wrong(input, wanted)),
        }
    }

    /// Reads `= "…"`.
    pub(crate) fn string(&self, input: ParseStream<'_>) -> syn::Result<LitStr> {
        self.value(input, "a string")
    }

    /// Reads `= path`.
    pub(crate) fn path(&self, input: ParseStream<'_>) -> syn::Result<Path> {
        self.value(input, "a path")
    }

    /// Reads `= Type`.
    pub(crate) fn ty(&self, input: ParseStream<'_>) -> syn::Result<Type> {
        self.value(input, "a type")
    }

    /// Reads `= 3`, at least `least` and at most `most`.
    pub(crate) fn integer(&self, input: ParseStream<'_>, least: u32, most: u32) -> syn::Result<u32> {
        let literal: LitInt = self.value(input, "a whole number")?;
        let plain = matches!(literal.suffix(), "" | "u8" | "u16" | "u32" | "u64" | "usize");
        match literal.base10_parse::<u32>() {
            Ok(number) if plain && (least..=most).contains(&number) => Ok(number),
            _ => {
                let range = if most == u32::MAX {
                    format!("a whole number, at least {least}")
                } else {
                    format!("a whole number from {least} to {most}")
                };
                let message = format!("`{}` takes {range}; write `{}`", self.key.name, self.key.example);
                Err(syn::Error::new_spanned(literal, message))
            }
        }
    }

    /// Reads `= "a"`, one of a few words.
    pub(crate) fn choice<T: Copy>(&self, input: ParseStream<'_>, choices: &[(&str, T)]) -> syn::Result<T> {
        let word = self.string(input)?;
        let text = word.value();
        if let Some((_, choice)) = choices.iter().find(|(name, _)| *name == text) {
            return Ok(*choice);
        }
        let names: Vec<_> = choices.iter().map(|(name, _)| *name).collect();
        let hint = grammar::nearest(&text, &names)
            .map_or_else(String::new, |nearest| format!("; did you mean \"{nearest}\"?"));
        let message = format!("`{}` is one of \"{}\"{hint}", self.key.name, names.join("\", \""));
        Err(syn::Error::new_spanned(word, message))
    }

    /// Reads `= "30s"`.
    pub(crate) fn duration(&self, input: ParseStream<'_>) -> syn::Result<Duration> {
        let literal = self.value::<LitStr>(input, "a duration")?;
        let text = literal.value();
        match grammar::duration(&text) {
            Some(duration) if duration.is_zero() => {
                let message = format!("`{}` is zero; use at least \"1ms\"", self.key.name);
                Err(syn::Error::new_spanned(literal, message))
            }
            Some(duration) => Ok(duration),
            None => {
                let message = format!(
                    "`{text}` is no duration; write a number and a unit: \"250ms\", \"1s\", \"5m\", \"1h\""
                );
                Err(syn::Error::new_spanned(literal, message))
            }
        }
    }

    /// Reads `(a, b)`, at least one of what is `wanted`.
    pub(crate) fn several<T: Parse>(&self, input: ParseStream<'_>, wanted: &str) -> syn::Result<Vec<T>> {
        if !input.peek(syn::token::Paren) {
            return Err(self.wrong(input, wanted));
        }
        // Parsed on its own: an error inside would otherwise be reported a second time by the list around it.
        let group: Group = input.parse()?;
        let values = Punctuated::<T, Token![,]>::parse_terminated.parse2(group.stream());
        let span = match values {
            Ok(values) if !values.is_empty() => return Ok(values.into_iter().collect()),
            Ok(_) => group.span(),
            Err(error) => error.span(),
        };
        let message = format!("`{}` takes {wanted}; write `{}`", self.key.name, self.key.example);
        Err(syn::Error::new(span, message))
    }

    /// Makes sure that a key without a value has none.
    pub(crate) fn flag(&self, input: ParseStream<'_>) -> syn::Result<()> {
        if input.is_empty() || input.peek(Token![,]) {
            return Ok(());
        }
        Err(self.wrong(input, "no value"))
    }
}

/// Refuses what stands between a value and the next comma.
fn after_value(input: ParseStream<'_>) -> syn::Result<()> {
    if input.is_empty() || input.peek(Token![,]) {
        return Ok(());
    }
    Err(syn::Error::new_spanned(skip_value(input), "a `,` is missing before this"))
}

/// Takes everything up to the next comma.
fn skip_value(input: ParseStream<'_>) -> TokenStream {
    let mut skipped = TokenStream::new();
    while !input.is_empty() && !input.peek(Token![,]) {
        match input.parse::<TokenTree>() {
            Ok(token) => skipped.extend([token]),
            Err(_) => break,
        }
    }
    skipped
}
