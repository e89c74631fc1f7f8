//! The shape of a type, as snapshots carry it and restores compare it.
use serde::{Deserialize, Serialize};
use std::fmt;

/// Shape of an encoded value. `Display` writes it the way Rust code would, for error messages.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Type {
    Unit,
    Bool,
    U8,
    U16,
    U32,
    U64,
    U128,
    I8,
    I16,
    I32,
    I64,
    I128,
    F32,
    F64,
    Char,
    String,
    Bytes,
    Option(Box<Type>),
    List(Box<Type>),
    Map(Box<Type>, Box<Type>),
    Tuple(Vec<Type>),
    Struct {
        name: String,
        fields: Vec<Field>,
    },
    Enum {
        name: String,
        variants: Vec<Variant>,
    },
    /// A type whose encoding is its own affair; equal names and versions mean equal encodings.
    Opaque {
        name: String,
        version: u32,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Field {
    pub name: String,
    #[serde(rename = "type")]
    pub ty: Type,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Variant {
    pub name: String,
    pub fields: Vec<Field>,
}

fn list(f: &mut fmt::Formatter<'_>, open: &str, fields: &[Field], close: &str) -> fmt::Result {
    f.write_str(open)?;
    for (i, x) in fields.iter().enumerate() {
        let comma = if i == 0 { "" } else { ", " };
        write!(f, "{comma}{}: {}", x.name, x.ty)?;
    }
    f.write_str(close)
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self {
            Self::Unit => "()",
            Self::Bool => "bool",
            Self::U8 => "u8",
            Self::U16 => "u16",
            Self::U32 => "u32",
            Self::U64 => "u64",
            Self::U128 => "u128",
            Self::I8 => "i8",
            Self::I16 => "i16",
            Self::I32 => "i32",
            Self::I64 => "i64",
            Self::I128 => "i128",
            Self::F32 => "f32",
            Self::F64 => "f64",
            Self::Char => "char",
            Self::String => "String",
            Self::Bytes => "Bytes",
            Self::Option(t) => return write!(f, "Option<{t}>"),
            Self::List(t) => return write!(f, "Vec<{t}>"),
            Self::Map(k, v) => return write!(f, "Map<{k}, {v}>"),
            Self::Tuple(ts) => {
                f.write_str("(")?;
                for (i, t) in ts.iter().enumerate() {
                    write!(f, "{}{t}", if i == 0 { "" } else { ", " })?;
                }
                return f.write_str(")");
            }
            Self::Struct { name, fields } => {
                f.write_str(name)?;
                return list(f, " { ", fields, " }");
            }
            Self::Enum { name, variants } => {
                write!(f, "enum {name} {{ ")?;
                for (i, v) in variants.iter().enumerate() {
                    write!(f, "{}{}", if i == 0 { "" } else { " | " }, v.name)?;
                    if !v.fields.is_empty() {
                        list(f, "(", &v.fields, ")")?;
                    }
                }
                return f.write_str(" }");
            }
            Self::Opaque { name, version } => return write!(f, "{name} (version {version})"),
        };
        f.write_str(name)
    }
}
