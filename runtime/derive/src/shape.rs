//! What the macros accept, and the refusal of the rest with a sentence at the right place.
use proc_macro2::{Ident, TokenStream as Tokens, TokenTree};
use quote::{ToTokens, format_ident};
use syn::ext::IdentExt;
use syn::spanned::Spanned;
use syn::{Data, DeriveInput, Error, Fields, GenericParam, Generics, Path, Result};

/// A field as the generated code sees it.
pub struct Slot {
    /// What stands before the colon in a struct expression: a name or a number.
    pub member: syn::Member,
    /// A local variable for it.
    pub local: Ident,
    /// Its name in the schema.
    pub name: String,
    pub ty: syn::Type,
}

/// A struct (`variant` is `None`) or one variant of an enum.
pub struct Shape {
    pub variant: Option<Ident>,
    pub fields: Vec<Slot>,
}

impl Shape {
    fn new(variant: Option<&Ident>, fields: &Fields) -> Self {
        let slot = |(i, f): (usize, &syn::Field)| Slot {
            member: f.ident.clone().map_or_else(|| syn::Member::from(i), syn::Member::from),
            local: format_ident!("field_{i}"),
            name: f.ident.as_ref().map_or_else(|| i.to_string(), |x| x.unraw().to_string()),
            ty: f.ty.clone(),
        };
        Self { variant: variant.cloned(), fields: fields.iter().enumerate().map(slot).collect() }
    }

    /// `Self` or `Self::Variant`.
    pub fn path(&self) -> Tokens {
        match &self.variant {
            None => quote::quote!(Self),
            Some(v) => quote::quote!(Self::#v),
        }
    }
}

/// The shapes of the type, in order; a struct has one.
pub fn shapes(input: &DeriveInput) -> Result<Vec<Shape>> {
    for p in &input.generics.params {
        if let GenericParam::Lifetime(l) = p {
            return Err(Error::new(
                l.span(),
                "records and state own their data: use `weir::data::Str` or `String` instead of a borrowed string, `Vec` instead of a slice",
            ));
        }
    }
    let shapes = match &input.data {
        Data::Struct(s) => vec![Shape::new(None, &s.fields)],
        Data::Enum(e) if e.variants.is_empty() => {
            return Err(Error::new(input.ident.span(), "an enum without variants has no value that could be encoded"));
        }
        Data::Enum(e) => e.variants.iter().map(|v| Shape::new(Some(&v.ident), &v.fields)).collect(),
        Data::Union(u) => {
            return Err(Error::new(
                u.union_token.span,
                "a union does not say which field is alive, so it cannot be encoded: use an enum",
            ));
        }
    };
    for f in shapes.iter().flat_map(|s| &s.fields) {
        if mentions(f.ty.to_token_stream(), &input.ident) {
            return Err(Error::new(
                f.ty.span(),
                "a type that contains itself has no finite schema: keep the nested values in a list beside each other, and refer to them by index",
            ));
        }
    }
    Ok(shapes)
}

fn mentions(tokens: Tokens, name: &Ident) -> bool {
    let mut behind_path = false; // `other::Name` is most likely another type
    tokens.into_iter().any(|t| match t {
        TokenTree::Group(g) => mentions(g.stream(), name),
        TokenTree::Ident(i) => (i == *name || i == "Self") && !std::mem::take(&mut behind_path),
        TokenTree::Punct(p) => {
            behind_path = p.as_char() == ':';
            false
        }
        TokenTree::Literal(_) => false,
    })
}

/// The generics with `bound` on every type parameter.
pub fn bounded(generics: &Generics, bound: &Path) -> Generics {
    let mut generics = generics.clone();
    let params: Vec<Ident> = generics.type_params().map(|p| p.ident.clone()).collect();
    let clause = generics.make_where_clause();
    for p in params {
        clause.predicates.push(syn::parse_quote!(#p: #bound));
    }
    generics
}
