//! `Key`: the implementation of `weir::data::Key`.
use crate::data::pattern;
use crate::shape::{bounded, shapes};
use proc_macro2::TokenStream as Tokens;
use quote::{quote, quote_spanned};
use syn::spanned::Spanned;
use syn::{DeriveInput, Result, parse_quote};

pub fn expand(input: &DeriveInput) -> Result<Tokens> {
    let shapes = shapes(input)?;
    let name = &input.ident;
    let generics = bounded(&input.generics, &parse_quote!(::weir::data::Key));
    let (impl_generics, type_generics, where_clause) = generics.split_for_impl();
    let arms = shapes.iter().enumerate().map(|(i, s)| {
        let hashes: Vec<Tokens> = s
            .fields
            .iter()
            .map(|f| {
                let (local, span) = (&f.local, f.ty.span());
                quote_spanned!(span=> ::weir::data::Key::key_hash(#local))
            })
            .collect();
        let start = if s.variant.is_some() { Some(quote!(::weir::data::hash_u64(#i as u64))) } else { None };
        let all: Vec<&Tokens> = start.iter().chain(&hashes).collect();
        let hash = match &all[..] {
            [] => quote!(::weir::data::hash_u64(0)),
            [one] => quote!(#one),
            [first, rest @ ..] => rest.iter().fold(quote!(#first), |h, x| quote!(::weir::data::hash_combine(#h, #x))),
        };
        let pattern = pattern(s);
        quote!(#pattern => #hash,)
    });
    // an enum is compared by its own `==`
    let same = match &shapes[..] {
        [s] if s.variant.is_none() && !s.fields.is_empty() => {
            let fields = s.fields.iter().map(|f| {
                let (member, span) = (&f.member, f.ty.span());
                quote_spanned!(span=> ::weir::data::Key::same_key(&self.#member, &other.#member))
            });
            Some(quote! {
                #[inline]
                fn same_key(&self, other: &Self) -> bool {
                    #(#fields)&&*
                }
            })
        }
        _ => None,
    };
    Ok(quote! {
        #[automatically_derived]
        #[allow(clippy::all, unused_variables, non_snake_case)]
        impl #impl_generics ::weir::data::Key for #name #type_generics #where_clause {
            #[inline]
            fn key_hash(&self) -> u64 {
                match self { #(#arms)* }
            }
            #same
        }
    })
}
