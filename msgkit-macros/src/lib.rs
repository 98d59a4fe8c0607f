//! `#[derive(Message)]` and `#[derive(Handler)]` of msgkit; use them as `msgkit::Message` and `msgkit::Handler`.
//!
//! Each derive is three steps: *parse* reads the attribute's keys, *validate* turns them into a definition that cannot be
//! wrong, *expand* writes the impl that one would write by hand. Whatever goes wrong is collected, so that every mistake
//! gives one error at its own place; then an impl is written all the same, so that the rest of the crate compiles and the
//! mistake stays the only thing the compiler talks about.

mod argument;
mod errors;
mod grammar;
mod handler;
mod krate;
mod message;

use proc_macro::TokenStream;
use syn::{DeriveInput, parse_macro_input};

#[doc = include_str!("../docs/message.md")]
#[proc_macro_derive(Message, attributes(message))]
pub fn derive_message(input: TokenStream) -> TokenStream {
    message::derive(&parse_macro_input!(input as DeriveInput)).into()
}

#[doc = include_str!("../docs/handler.md")]
#[proc_macro_derive(Handler, attributes(handler))]
pub fn derive_handler(input: TokenStream) -> TokenStream {
    handler::derive(&parse_macro_input!(input as DeriveInput)).into()
}
