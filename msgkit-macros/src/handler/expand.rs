//! Expand: the impl that one would write by hand.

use std::time::Duration;

use proc_macro2::{Span, TokenStream, TokenTree};
use quote::{ToTokens, quote, quote_spanned};
use syn::{DeriveInput, Type};

use super::attributes::{Order, Retry, Start, Unhandled};
use super::definition::Definition;
use crate::krate::Krate;

/// The impl of `Handler`.
pub(super) fn handler(input: &DeriveInput, definition: &Definition) -> TokenStream {
    let krate = &definition.krate;
    let name = &definition.name;
    let text = |text: &dyn ToTokens| quote!(#krate::Text::from_static(#text));
    let name = text(name);
    let new = match &definition.group {
        Some(group) => {
            let group = text(group);
            quote!(#krate::handler::HandlerSpec::new(#name, #group)?)
        }
        None => quote!(#krate::handler::HandlerSpec::ephemeral(#name)?),
    };
    let registrations = definition.messages.iter().map(|message| registration(definition, message));
    let publishes = definition
        .publishes
        .iter()
        .map(|message| quote_spanned!(blame(message)=> let spec = spec.publishes::<#message>();));
    let patterns = definition.subscribes.iter().map(|pattern| {
        let pattern = text(pattern);
        quote!(.subscribes(#krate::Pattern::new(#pattern)?))
    });
    let start = definition.start.map(|start| {
        let start = match start {
            Start::Latest => quote!(Latest),
            Start::Earliest => quote!(Earliest),
        };
        quote!(.start(#krate::transport::Start::#start))
    });
    let policy = definition.policy.as_ref().map(|policy| {
        let policy = text(policy);
        quote!(.policy(#policy))
    });
    let component = definition.component.as_ref().map(|component| {
        let component = text(component);
        quote!(.component(#component))
    });
    let overrides = overrides(definition);
    let body = quote! {
        let handler = &self;
        let spec = #new #start #policy #overrides #(#patterns)* #component;
        #(#registrations)*
        #(#publishes)*
        ::core::result::Result::Ok(spec)
    };
    implement(input, krate, &body)
}

/// An impl that compiles and means nothing, so that a mistake in the attribute stays the only error.
pub(super) fn placeholder(input: &DeriveInput, krate: &Krate) -> TokenStream {
    implement(input, krate, &quote!(::core::unreachable!()))
}

fn implement(input: &DeriveInput, krate: &Krate, body: &TokenStream) -> TokenStream {
    let ident = &input.ident;
    let (generics, arguments, bounds) = input.generics.split_for_impl();
    quote! {
        #[automatically_derived]
        impl #generics #krate::Handler for #ident #arguments #bounds {
            fn spec(self: ::std::sync::Arc<Self>)
                -> ::core::result::Result<#krate::handler::HandlerSpec, #krate::Error>
            {
                #body
            }
        }
    }
}

/// Everything here has the span of the type, so that what the type lacks is one error on the attribute.
fn registration(definition: &Definition, message: &Type) -> TokenStream {
    let krate = &definition.krate;
    let span = blame(message);
    let registration = match &definition.batch {
        Some(batch) => {
            let (size, wait) = (batch.size as usize, duration(batch.wait));
            quote_spanned!(span=> #krate::handler::batch::<Self, #message>(handler, #size, #wait))
        }
        None => quote_spanned!(span=> #krate::handler::register::<Self, #message, _, _>(handler)),
    };
    quote!(let spec = spec.with(#registration);)
}

/// Where to blame a type: on its last name, which is all that a path of modules shows of it.
fn blame(ty: &Type) -> Span {
    let last = match ty {
        Type::Path(path) => path.path.segments.last().map(|last| last.ident.span()),
        _ => ty.to_token_stream().into_iter().next().as_ref().map(TokenTree::span),
    };
    // Errors show the place in the attribute; lints see code that a macro wrote, and keep quiet.
    last.unwrap_or_else(Span::call_site).resolved_at(Span::call_site())
}

fn overrides(definition: &Definition) -> TokenStream {
    let krate = &definition.krate;
    let concurrency = definition.concurrency.map(|lanes| {
        let lanes = lanes as usize;
        quote!(.concurrency(#lanes))
    });
    let order = definition.order.map(|order| {
        let order = match order {
            Order::None => quote!(None),
            Order::Overtake => quote!(Key(#krate::policy::OnFailure::Overtake)),
            Order::Hold => quote!(Key(#krate::policy::OnFailure::Hold)),
        };
        quote!(.order(#krate::policy::Order::#order))
    });
    let retry = definition.retry.as_ref().map(|Retry { immediate, delayed }| {
        let immediate =
            immediate.map(|times| quote!(policy.immediate = ::core::option::Option::Some(#times);));
        let delayed =
            delayed.map(|times| quote!(policy.delayed_rounds = ::core::option::Option::Some(#times);));
        quote!(.overrides(|policy| { #immediate #delayed }))
    });
    let timeout = definition.timeout.map(|timeout| {
        let timeout = duration(timeout);
        quote!(.timeout(#timeout))
    });
    let unhandled = definition.unhandled.map(|unhandled| {
        let unhandled = match unhandled {
            Unhandled::Skip => quote!(Skip),
            Unhandled::DeadLetter => quote!(DeadLetter),
        };
        quote!(.unhandled(#krate::policy::Unhandled::#unhandled))
    });
    quote!(#concurrency #order #retry #timeout #unhandled)
}

fn duration(duration: Duration) -> TokenStream {
    let (seconds, nanos) = (duration.as_secs(), duration.subsec_nanos());
    quote!(::core::time::Duration::new(#seconds, #nanos))
}
