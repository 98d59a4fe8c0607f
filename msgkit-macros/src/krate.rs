//! How the expansion names msgkit.

use proc_macro2::TokenStream;
use quote::{ToTokens, quote};
use syn::Path;

/// The path to msgkit: `::msgkit`, or what `crate = …` says where another crate re-exports it.
#[derive(Default)]
pub(crate) struct Krate(pub(crate) Option<Path>);

impl ToTokens for Krate {
    fn to_tokens(&self, tokens: &mut TokenStream) {
        match &self.0 {
            Some(path) => path.to_tokens(tokens),
            None => tokens.extend(quote!(::msgkit)),
        }
    }
}
