//! `Record` and `State`: the implementation of `weir::data::Data`.
use crate::shape::{Shape, bounded, shapes};
use proc_macro2::TokenStream as Tokens;
use quote::{quote, quote_spanned};
use syn::ext::IdentExt;
use syn::spanned::Spanned;
use syn::{DeriveInput, Result, parse_quote};

pub fn expand(input: &DeriveInput) -> Result<Tokens> {
    let shapes = shapes(input)?;
    let name = &input.ident;
    let text = name.unraw().to_string();
    let generics = bounded(&input.generics, &parse_quote!(::weir::data::Data));
    let (impl_generics, type_generics, where_clause) = generics.split_for_impl();
    let is_enum = shapes.iter().any(|s| s.variant.is_some());

    let arms = shapes.iter().enumerate().map(|(i, s)| {
        let tag = is_enum.then(|| quote!(::weir::data::put_len(out, #i);));
        let encode = s.fields.iter().map(|f| {
            let (local, span) = (&f.local, f.ty.span());
            quote_spanned!(span=> ::weir::data::Data::encode(#local, out);)
        });
        let (pattern, encode) = (pattern(s), quote!(#(#encode)*));
        quote!(#pattern => { #tag #encode })
    });
    let decode = if is_enum {
        let arms = shapes.iter().enumerate().map(|(i, s)| {
            let build = build(s);
            quote!(#i => ::core::result::Result::Ok(#build),)
        });
        let message = format!("a variant of {text} that does not exist");
        quote! {
            match ::weir::data::take_len(input)? {
                #(#arms)*
                _ => ::core::result::Result::Err(::weir::data::DecodeError::Invalid(#message)),
            }
        }
    } else {
        let build = build(&shapes[0]);
        quote!(::core::result::Result::Ok(#build))
    };
    let type_of = if is_enum {
        let variants = shapes.iter().map(|s| {
            let variant = s.variant.as_ref().map(|v| v.unraw().to_string());
            let fields = fields(s);
            quote!(::weir::data::Variant { name: #variant.into(), fields: #fields })
        });
        quote!(::weir::data::Type::Enum { name: #text.into(), variants: ::std::vec![#(#variants),*] })
    } else {
        let fields = fields(&shapes[0]);
        quote!(::weir::data::Type::Struct { name: #text.into(), fields: #fields })
    };
    let columns = (!is_enum).then(|| columns(&shapes[0]));
    Ok(quote! {
        #[automatically_derived]
        #[allow(clippy::all, unused_variables, non_snake_case)]
        impl #impl_generics ::weir::data::Data for #name #type_generics #where_clause {
            #[inline]
            fn encode(&self, out: &mut ::std::vec::Vec<u8>) {
                match self { #(#arms)* }
            }
            #[inline]
            fn decode(input: &mut &[u8]) -> ::core::result::Result<Self, ::weir::data::DecodeError> {
                #decode
            }
            fn type_of() -> ::weir::data::Type {
                #type_of
            }
            #columns
        }
    })
}

/// A pattern that binds every field to its local.
pub fn pattern(s: &Shape) -> Tokens {
    let path = s.path();
    let (members, locals): (Vec<_>, Vec<_>) = s.fields.iter().map(|f| (&f.member, &f.local)).unzip();
    quote!(#path { #(#members: #locals),* })
}

fn build(s: &Shape) -> Tokens {
    let path = s.path();
    let fields = s.fields.iter().map(|f| {
        let (member, ty, span) = (&f.member, &f.ty, f.ty.span());
        quote_spanned!(span=> #member: <#ty as ::weir::data::Data>::decode(input)?)
    });
    quote!(#path { #(#fields),* })
}

/// A struct lies in a batch field by field; an enum as values one after the other, which is what there is without this.
fn columns(s: &Shape) -> Tokens {
    let path = s.path();
    let encode = s.fields.iter().map(|f| {
        let (member, ty, span) = (&f.member, &f.ty, f.ty.span());
        quote_spanned! {span=>
            <#ty as ::weir::data::Data>::encode_column(::core::clone::Clone::clone(&values).map(|value| &value.#member), out);
        }
    });
    let open = s.fields.iter().map(|f| {
        let (local, ty, span) = (&f.local, &f.ty, f.ty.span());
        quote_spanned!(span=> let (mut #local, input) = <#ty as ::weir::data::Data>::decode_column(input, n)?;)
    });
    let build = s.fields.iter().map(|f| {
        let (member, local) = (&f.member, &f.local);
        quote!(#member: ::weir::data::Column::read(&mut #local)?)
    });
    quote! {
        #[inline]
        fn encode_column<'weir>(
            values: impl ::core::iter::Iterator<Item = &'weir Self> + ::core::clone::Clone,
            out: &mut ::std::vec::Vec<u8>,
        )
        where
            Self: 'weir,
        {
            #(#encode)*
        }
        #[inline]
        fn decode_column<'weir>(
            input: &'weir [u8],
            n: usize,
        ) -> ::core::result::Result<
            (impl ::weir::data::Column<Self>, &'weir [u8]),
            ::weir::data::DecodeError,
        > {
            #(#open)*
            ::core::result::Result::Ok((move || ::core::result::Result::Ok(#path { #(#build),* }), input))
        }
    }
}

fn fields(s: &Shape) -> Tokens {
    let fields = s.fields.iter().map(|f| {
        let (name, ty, span) = (&f.name, &f.ty, f.ty.span());
        quote_spanned!(span=> ::weir::data::Field { name: #name.into(), ty: <#ty as ::weir::data::Data>::type_of() })
    });
    quote!(::std::vec![#(#fields),*])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(input: DeriveInput) -> String {
        expand(&input).map(|t| t.to_string()).unwrap_err().to_string()
    }

    #[test]
    fn what_cannot_be_encoded_is_refused_with_the_way_out() {
        assert!(refusal(parse_quote!(union U { a: u8, b: i8 })).contains("use an enum"));
        assert!(
            refusal(parse_quote!(
                enum E {}
            ))
            .contains("without variants")
        );
        assert!(
            refusal(parse_quote!(
                struct S<'a> {
                    x: &'a str,
                }
            ))
            .contains("weir::data::Str")
        );
        assert!(
            refusal(parse_quote!(
                struct Tree {
                    below: Vec<Option<Box<Tree>>>,
                }
            ))
            .contains("contains itself")
        );
        assert!(
            refusal(parse_quote!(
                enum L {
                    End,
                    More(Box<Self>),
                }
            ))
            .contains("contains itself")
        );
        assert!(
            expand(&parse_quote!(
                struct Event {
                    inner: other::Event,
                }
            ))
            .is_ok()
        );
    }
}
