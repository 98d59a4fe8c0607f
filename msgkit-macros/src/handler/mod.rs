//! `#[derive(Handler)]`.

mod attributes;
mod definition;
mod expand;

use proc_macro2::TokenStream;
use syn::{Data, DeriveInput};

use self::attributes::Attributes;
use self::definition::Definition;
pub(crate) use self::definition::snake_case;
use crate::argument;
use crate::errors::Errors;
use crate::krate::Krate;

/// The impl of `Handler` for `input`, and its mistakes.
pub(crate) fn derive(input: &DeriveInput) -> TokenStream {
    let mut errors = Errors::default();
    if let Data::Union(union) = &input.data {
        errors.on(union.union_token, "a union is no handler; use a struct that holds what the handler needs");
        let placeholder = expand::placeholder(input, &Krate::default());
        let errors = errors.into_tokens();
        return quote::quote!(#placeholder #errors);
    }
    if let Some(lifetime) = input.generics.lifetimes().next() {
        errors.on(
            lifetime,
            "a handler lives as long as its service, so it borrows nothing; let it own its fields, or share them by `Arc`",
        );
        return errors.into_tokens();
    }
    let attributes = Attributes::parse(&input.attrs, &mut errors);
    argument::refuse_inside("handler", &input.data, &mut errors);
    match Definition::validate(input, attributes, &mut errors) {
        Ok(definition) if errors.is_empty() => expand::handler(input, &definition),
        Ok(Definition { krate, .. }) | Err(krate) => {
            let placeholder = expand::placeholder(input, &krate);
            let errors = errors.into_tokens();
            quote::quote!(#placeholder #errors)
        }
    }
}

#[cfg(test)]
mod tests {
    use syn::parse_quote;

    /// What a registration says of its batch is not public, so the expansion is looked at.
    #[test]
    fn the_batch_is_the_one_that_was_asked_for() {
        let expanded = super::derive(&parse_quote! {
            #[handler(message = Tick, group = "bulk", batch(size = 100, wait = "50ms"))]
            struct InsertTicks;
        });
        let expected = ":: batch :: < Self , Tick > (handler , 100usize , :: core :: time :: Duration :: new (0u64 , 50000000u32))";
        assert!(expanded.to_string().contains(expected), "{expanded}");
    }
}
