//! Expand: the impl that one would write by hand.

use proc_macro2::TokenStream;
use quote::{ToTokens, quote};
use syn::Ident;

use super::definition::{Definition, Part};
use super::field::Field;
use crate::krate::Krate;

/// The impl of `Message`.
pub(super) fn message(definition: &Definition<'_>) -> TokenStream {
    let Definition { ident, krate, name, topic, parts, key, subject, codec } = definition;
    let codec = codec.as_ref().map_or_else(|| quote!(#krate::codec::Json), ToTokens::to_token_stream);
    let render = render(krate, topic, parts);
    let key = text_method("key", key.as_ref());
    let subject = text_method("subject", subject.as_ref());
    quote! {
        #[automatically_derived]
        impl #krate::Message for #ident {
            type Codec = #codec;
            const NAME: &'static str = #name;
            const TOPIC: &'static str = #topic;
            fn topic(&self) -> ::core::result::Result<#krate::Topic, #krate::Error> {
                #render
            }
            #key
            #subject
        }
    }
}

/// An impl that compiles and means nothing, so that a mistake in the attribute stays the only error.
pub(super) fn placeholder(ident: &Ident, krate: &Krate) -> TokenStream {
    quote! {
        #[automatically_derived]
        impl #krate::Message for #ident {
            type Codec = #krate::codec::Json;
            const NAME: &'static str = "";
            const TOPIC: &'static str = "";
            fn topic(&self) -> ::core::result::Result<#krate::Topic, #krate::Error> {
                ::core::unreachable!()
            }
        }
    }
}

/// The topic's parts are checked here and now, so at run time only the length of what was filled in is left to check.
fn render(krate: &Krate, topic: &str, parts: &[Part<'_>]) -> TokenStream {
    if let [Part::Text(_)] = parts {
        return quote!(#krate::Topic::from_checked(#krate::Text::from_static(#topic)));
    }
    let capacity = topic.len() + 16;
    let parts = parts.iter().map(|part| match part {
        Part::Text(text) => quote!(topic.push_str(#text);),
        Part::Field(field) => {
            let value = field.borrowed();
            quote!(topic.push_str(&#krate::Topic::render_segment(#value));)
        }
    });
    quote! {
        let mut topic = ::std::string::String::with_capacity(#capacity);
        #(#parts)*
        #krate::Topic::from_checked(#krate::Text::from(topic))
    }
}

fn text_method(name: &str, field: Option<&Field<'_>>) -> Option<TokenStream> {
    let name = quote::format_ident!("{name}");
    let value = field?.optional();
    Some(quote! {
        fn #name(&self) -> ::core::option::Option<::std::borrow::Cow<'_, str>> {
            #value
        }
    })
}
