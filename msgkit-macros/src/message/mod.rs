//! `#[derive(Message)]`.

mod attributes;
mod definition;
mod expand;
mod field;

use proc_macro2::TokenStream;
use syn::{Data, DeriveInput};

use self::attributes::Attributes;
use self::definition::Definition;
use crate::argument;
use crate::errors::Errors;

/// The impl of `Message` for `input`, and its mistakes.
pub(crate) fn derive(input: &DeriveInput) -> TokenStream {
    let mut errors = Errors::default();
    if let Data::Union(union) = &input.data {
        errors.on(union.union_token, "a union is no message, as nobody can tell what it holds; use an enum");
        return errors.into_tokens();
    }
    if !input.generics.params.is_empty() {
        errors.on(
            &input.generics,
            "a message has no generic parameters, as each of its shapes would need a wire name of its own; derive \
             `Message` for a concrete type that owns its fields",
        );
        return errors.into_tokens();
    }
    let attributes = Attributes::parse(&input.attrs, &mut errors);
    argument::refuse_inside("message", &input.data, &mut errors);
    match Definition::validate(input, attributes, &mut errors) {
        Ok(definition) if errors.is_empty() => expand::message(&definition),
        Ok(Definition { krate, .. }) | Err(krate) => {
            let placeholder = expand::placeholder(&input.ident, &krate);
            let errors = errors.into_tokens();
            quote::quote!(#placeholder #errors)
        }
    }
}
