//! The derive macros `Record`, `State` and `Key`.
//!
//! `Record` and `State` write `weir::data::Data`: fields one after the other in declaration order, an enum's variant as
//! an LEB128 varint of its place before its fields. `Key` writes `weir::data::Key` from the hashes of the fields.
use proc_macro::TokenStream;
use proc_macro2::TokenStream as Tokens;
use syn::DeriveInput;

mod data;
mod key;
mod shape;

/// Makes a struct or enum a record: it can travel between tasks and lie in snapshots. Needs `Clone`; every field must be
/// `Data` too.
#[proc_macro_derive(Record)]
pub fn record(input: TokenStream) -> TokenStream {
    run(input, data::expand)
}

/// Makes a struct or enum usable as a value of keyed state. The same code as `Record`; the name says what it is for.
#[proc_macro_derive(State)]
pub fn state(input: TokenStream) -> TokenStream {
    run(input, data::expand)
}

/// Makes a type one that records can be keyed by. Needs `Eq` and `Record`; every field must be `Key` too. A struct of one
/// field hashes as that field does. Order of fields and of variants is part of the hash: do not change it.
#[proc_macro_derive(Key)]
pub fn key(input: TokenStream) -> TokenStream {
    run(input, key::expand)
}

fn run(input: TokenStream, expand: fn(&DeriveInput) -> syn::Result<Tokens>) -> TokenStream {
    let input = syn::parse_macro_input!(input as DeriveInput);
    expand(&input).unwrap_or_else(syn::Error::into_compile_error).into()
}
