//! The fields of a message, and how each becomes text.

use proc_macro2::{Span, TokenStream};
use quote::quote_spanned;
use syn::ext::IdentExt;
use syn::{Data, DeriveInput, GenericArgument, Index, Member, PathArguments, Type};

use crate::grammar;

/// A field whose value goes into the topic, the key or the subject.
pub(super) struct Field<'a> {
    member: Member,
    ty: &'a Type,
    /// Where the attribute names it: what its type lacks is a mistake there.
    span: Span,
}

/// Every field of a struct; none for an enum, whose variants have nothing in common.
pub(super) struct Fields<'a>(Vec<(Member, &'a Type)>);

impl<'a> Fields<'a> {
    /// The fields of `input`.
    pub(super) fn of(input: &'a DeriveInput) -> Self {
        let Data::Struct(data) = &input.data else { return Self(Vec::new()) };
        let member = |(index, field): (usize, &'a syn::Field)| {
            let member = match &field.ident {
                Some(ident) => Member::Named(ident.clone()),
                None => Member::Unnamed(Index::from(index)),
            };
            (member, &field.ty)
        };
        Self(data.fields.iter().enumerate().map(member).collect())
    }

    /// The field that is called `name`, to be blamed on `span`.
    ///
    /// The error says which fields there are.
    pub(super) fn find(&self, name: &str, span: Span) -> Result<Field<'a>, String> {
        let names: Vec<_> = self.0.iter().map(|(member, _)| plain_name(member)).collect();
        if let Some(at) = names.iter().position(|known| known == name) {
            let (member, ty) = &self.0[at];
            return Ok(Field { member: member.clone(), ty, span });
        }
        if names.is_empty() {
            return Err(format!("there is no field `{name}`, as there are no fields"));
        }
        let known: Vec<_> = names.iter().map(String::as_str).collect();
        let hint = grammar::nearest(name, &known)
            .map_or_else(String::new, |nearest| format!("; did you mean `{nearest}`?"));
        Err(format!("there is no field `{name}`, the fields are `{}`{hint}", known.join("`, `")))
    }
}

/// A field's name as a topic's braces hold it: `r#type` is `type`.
pub(super) fn plain_name(member: &Member) -> String {
    match member {
        Member::Named(ident) => ident.unraw().to_string(),
        Member::Unnamed(index) => index.index.to_string(),
    }
}

impl Field<'_> {
    /// The field's text as a `&str` expression.
    pub(super) fn borrowed(&self) -> TokenStream {
        let Self { member, ty, .. } = self;
        if is_str(ty) {
            quote_spanned!(self.span()=> &*self.#member)
        } else {
            quote_spanned!(self.span()=> &::std::string::ToString::to_string(&self.#member))
        }
    }

    /// The field's text as an `Option<Cow<'_, str>>` expression; an optional field may have none.
    pub(super) fn optional(&self) -> TokenStream {
        let Self { member, ty, .. } = self;
        let span = self.span();
        let text = |ty: &Type, reference: TokenStream| {
            if is_str(ty) {
                quote_spanned!(span=> ::std::borrow::Cow::Borrowed(&**#reference))
            } else {
                quote_spanned!(span=> ::std::borrow::Cow::Owned(::std::string::ToString::to_string(#reference)))
            }
        };
        match optional(ty) {
            Some(ty) => {
                let text = text(ty, quote_spanned!(span=> value));
                quote_spanned!(span=> ::core::option::Option::map(
                    ::core::option::Option::as_ref(&self.#member), |value| #text
                ))
            }
            None => {
                let text = text(ty, quote_spanned!(span=> &self.#member));
                quote_spanned!(span=> ::core::option::Option::Some(#text))
            }
        }
    }

    /// Whether it may have no text: a key or a subject may be left out, a segment of a topic may not.
    pub(super) fn is_optional(&self) -> bool {
        optional(self.ty).is_some()
    }

    /// Blames `other` for what their type lacks, where both are the same field: one mistake, one error.
    pub(super) fn blame(&mut self, other: Option<&Field<'_>>) {
        if let Some(other) = other.filter(|other| other.member == self.member) {
            self.span = other.span;
        }
    }

    /// Errors show the place in the attribute; lints see code that a macro wrote, and keep quiet.
    fn span(&self) -> Span {
        self.span.resolved_at(Span::call_site())
    }
}

/// Whether `ty` is spelled as something that derefs to `str`, so that its text needs no copy; all else goes by `Display`.
fn is_str(ty: &Type) -> bool {
    let ends_in = |ty: &Type| matches!(ty, Type::Path(path) if path.path.is_ident("str"));
    match ty {
        Type::Reference(reference) => ends_in(&reference.elem),
        Type::Path(path) => path.path.segments.last().is_some_and(|last| match &last.arguments {
            PathArguments::None => last.ident == "String",
            PathArguments::AngleBracketed(arguments) => {
                ["Arc", "Box", "Cow", "Rc"].iter().any(|name| last.ident == name)
                    && matches!(arguments.args.last(), Some(GenericArgument::Type(ty)) if ends_in(ty))
            }
            PathArguments::Parenthesized(_) => false,
        }),
        _ => false,
    }
}

/// What an `Option` may hold.
fn optional(ty: &Type) -> Option<&Type> {
    let Type::Path(path) = ty else { return None };
    let last = path.path.segments.last().filter(|last| last.ident == "Option")?;
    let PathArguments::AngleBracketed(arguments) = &last.arguments else { return None };
    match arguments.args.first()? {
        GenericArgument::Type(ty) => Some(ty),
        _ => None,
    }
}
