//! A CSV record as serde sees it. Where a struct's fields are all columns, the match is made once per file and each record
//! is read as a sequence: no name is looked at per record.
use super::bad::Bad;
use crate::data::Data;
use serde::de::value::{BorrowedStrDeserializer, StrDeserializer};
use serde::de::{
    self, DeserializeOwned, DeserializeSeed, Deserializer, IntoDeserializer, MapAccess, SeqAccess, Visitor,
};
use std::fmt;

/// Where a field's text lies: in the record, or among the unescaped texts.
#[derive(Debug, Clone, Copy)]
pub(super) struct Field {
    start: usize,
    end: usize,
    unescaped: bool,
}

impl Field {
    pub fn plain(start: usize, end: usize) -> Self {
        Self { start, end, unescaped: false }
    }
    pub fn unescaped(start: usize, end: usize) -> Self {
        Self { start, end, unescaped: true }
    }
    #[inline]
    pub fn text<'a>(&self, record: &'a str, unescaped: &'a str) -> &'a str {
        let all = if self.unescaped { unescaped } else { record };
        all.get(self.start..self.end).unwrap_or_default() // always there: both ends lie beside ASCII bytes
    }
}

/// How a struct's fields are found.
#[derive(Debug, Default)]
pub(super) enum Plan {
    #[default]
    Unknown,
    /// Column of each field in the order in which the type names them.
    InOrder(Vec<usize>),
    /// By the header's names: where the type renames, flattens, or leaves fields to their defaults.
    ByName,
}

/// One record.
pub(super) struct Row<'a> {
    text: &'a str,
    unescaped: &'a str,
    fields: &'a [Field],
    columns: Option<&'a [String]>,
    plan: &'a mut Plan,
    /// The field being read, for messages.
    current: Option<usize>,
    /// Fields taken so far.
    taken: usize,
    /// The names that the type gave when it asked for a struct.
    names: Option<&'static [&'static str]>,
}

impl<'a> Row<'a> {
    pub fn new(
        text: &'a str,
        unescaped: &'a str,
        fields: &'a [Field],
        columns: Option<&'a [String]>,
        plan: &'a mut Plan,
    ) -> Self {
        Self { text, unescaped, fields, columns, plan, current: None, taken: 0, names: None }
    }

    #[inline]
    pub fn value<T: Data + DeserializeOwned>(&mut self) -> Result<T, Box<Bad>> {
        let value = T::deserialize(&mut *self).map_err(|e| self.bad(e))?;
        if matches!(self.plan, Plan::Unknown) {
            self.find_plan(&value)?;
        }
        Ok(value)
    }

    /// After the first record of a file, which was read by name: reads it again in order, and keeps to the order if that gives
    /// the same value (aliases, renamed and flattened fields, a ban on unknown fields: serde alone knows them).
    #[cold]
    fn find_plan<T: Data + DeserializeOwned>(&mut self, by_name: &T) -> Result<(), Box<Bad>> {
        if self.columns.is_none() && self.taken < self.fields.len() {
            return Err(Bad::new(format_args!(
                "it has {} fields, of which the type takes {}",
                self.fields.len(),
                self.taken
            )));
        }
        let Some(columns) = self.names.and_then(|names| self.in_order(names)) else {
            // without a header each record is checked for fields left over
            if self.columns.is_some() {
                *self.plan = Plan::ByName;
            }
            return Ok(());
        };
        let wanted = columns.len();
        (*self.plan, self.taken) = (Plan::InOrder(columns), 0);
        let again = T::deserialize(&mut *self);
        let encoded = |x: &T| {
            let mut out = Vec::new();
            x.encode(&mut out);
            out
        };
        if self.taken != wanted || !again.is_ok_and(|x| encoded(&x) == encoded(by_name)) {
            *self.plan = Plan::ByName;
        }
        Ok(())
    }

    fn bad(&self, e: RowError) -> Box<Bad> {
        match *e.0 {
            Kind::MissingColumn(name) => {
                let have = self.columns.unwrap_or_default().join(", ");
                Bad::fatal(format_args!(
                    "the file has no column {name:?}, which the record type needs; its columns are: {have}"
                ))
            }
            Kind::Duplicate(name) => Bad::fatal(format_args!("the header names the column {name:?} twice")),
            Kind::Other(reason) => {
                let column = self.current.map(|i| match self.columns.and_then(|c| c.get(i)) {
                    Some(name) => name.clone(),
                    None => (i + 1).to_string(),
                });
                Box::new(Bad { column, ..*Bad::new(reason) })
            }
        }
    }

    #[inline]
    fn field(&mut self, i: usize) -> Result<FieldText<'a>, RowError> {
        self.current = Some(i);
        self.taken += 1;
        match self.fields.get(i) {
            Some(f) => Ok(FieldText(f.text(self.text, self.unescaped))),
            None => Err(RowError::other(format_args!("the record ends before field {}", i + 1))),
        }
    }

    /// The columns of `names` when each is there exactly once.
    fn in_order(&self, names: &[&str]) -> Option<Vec<usize>> {
        let columns = self.columns?;
        let only = |name: &&str| {
            let mut all = columns.iter().enumerate().filter(|(_, c)| c == name);
            all.next().filter(|_| all.next().is_none()).map(|(i, _)| i)
        };
        names.iter().map(only).collect()
    }

    fn only(&mut self) -> Result<FieldText<'a>, RowError> {
        match self.fields.len() {
            1 => self.field(0),
            n => Err(RowError::other(format_args!("it has {n} fields, the record type is a single value"))),
        }
    }
}

#[derive(Debug)]
pub(super) struct RowError(Box<Kind>);

impl RowError {
    fn other(reason: impl fmt::Display) -> Self {
        Self(Box::new(Kind::Other(reason.to_string())))
    }
}

#[derive(Debug)]
enum Kind {
    MissingColumn(&'static str),
    Duplicate(&'static str),
    Other(String),
}

impl fmt::Display for RowError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}
impl std::error::Error for RowError {}
impl de::Error for RowError {
    fn custom<T: fmt::Display>(msg: T) -> Self {
        Self::other(msg)
    }
    fn missing_field(field: &'static str) -> Self {
        Self(Box::new(Kind::MissingColumn(field)))
    }
    fn duplicate_field(field: &'static str) -> Self {
        Self(Box::new(Kind::Duplicate(field)))
    }
}

/// The fields at some columns, one by one.
struct InOrder<'r, 'a, I> {
    row: &'r mut Row<'a>,
    columns: I,
}

impl<'de, 'a: 'de, I: Iterator<Item = usize>> SeqAccess<'de> for InOrder<'_, 'a, I> {
    type Error = RowError;
    #[inline]
    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, RowError> {
        match self.columns.next() {
            None => Ok(None),
            Some(i) => seed.deserialize(self.row.field(i)?).map(Some),
        }
    }
}

/// The fields with their columns' names.
struct ByName<'r, 'a> {
    row: &'r mut Row<'a>,
    columns: &'a [String],
    next: usize,
}

impl<'de, 'a: 'de> MapAccess<'de> for ByName<'_, 'a> {
    type Error = RowError;
    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, RowError> {
        match self.columns.get(self.next) {
            None => {
                self.row.current = None;
                Ok(None)
            }
            Some(name) => {
                self.row.current = Some(self.next);
                seed.deserialize(BorrowedStrDeserializer::new(name)).map(Some)
            }
        }
    }
    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, RowError> {
        let field = self.row.field(self.next)?;
        self.next += 1;
        seed.deserialize(field)
    }
}

/// A type that is no struct, map or sequence is the value of the only column.
macro_rules! only {
    ($($method:ident)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, RowError> {
            self.only()?.$method(visitor)
        }
    )*};
}

impl<'de, 'a: 'de> Deserializer<'de> for &mut Row<'a> {
    type Error = RowError;

    only! {
        deserialize_any deserialize_bool deserialize_char deserialize_str deserialize_string deserialize_bytes
        deserialize_byte_buf deserialize_option deserialize_unit deserialize_identifier deserialize_ignored_any
        deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64 deserialize_i128
        deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64 deserialize_u128 deserialize_f32 deserialize_f64
    }

    #[inline]
    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        names: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, RowError> {
        if self.columns.is_none() {
            return visitor.visit_seq(InOrder { row: self, columns: 0..names.len() });
        }
        self.names = Some(names);
        // the plan is taken out and put back: the row is lent to the visitor while the plan is followed
        match std::mem::take(self.plan) {
            Plan::InOrder(columns) => {
                let value = visitor.visit_seq(InOrder { row: self, columns: columns.iter().copied() });
                *self.plan = Plan::InOrder(columns);
                value
            }
            other => {
                *self.plan = other;
                self.deserialize_map(visitor)
            }
        }
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, RowError> {
        match self.columns {
            Some(columns) => visitor.visit_map(ByName { row: self, columns, next: 0 }),
            None => Err(RowError::other("a file without a header can only be read into a plain struct or a tuple")),
        }
    }
    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, RowError> {
        let n = self.fields.len();
        visitor.visit_seq(InOrder { row: self, columns: 0..n })
    }
    fn deserialize_tuple<V: Visitor<'de>>(self, n: usize, visitor: V) -> Result<V::Value, RowError> {
        visitor.visit_seq(InOrder { row: self, columns: 0..n })
    }
    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        n: usize,
        visitor: V,
    ) -> Result<V::Value, RowError> {
        self.deserialize_tuple(n, visitor)
    }
    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, RowError> {
        visitor.visit_newtype_struct(self)
    }
    fn deserialize_unit_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, RowError> {
        self.only()?.deserialize_unit(visitor)
    }
    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, RowError> {
        self.only()?.deserialize_enum(name, variants, visitor)
    }
}

/// The text of one field.
#[derive(Debug, Clone, Copy)]
struct FieldText<'a>(&'a str);

impl FieldText<'_> {
    #[cold]
    fn refuse(&self, what: &str, e: impl fmt::Display) -> RowError {
        if self.0.is_empty() {
            return RowError::other(format_args!(
                "the field is empty, {what} is needed (an Option would take it as None)"
            ));
        }
        let shown: String = self.0.chars().take(40).collect();
        RowError::other(format_args!("{shown:?} is not {what} ({e})"))
    }
}

macro_rules! numbers {
    ($($method:ident $visit:ident $t:ident $what:literal),* $(,)?) => {$(
        #[inline]
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, RowError> {
            match self.0.parse::<$t>() {
                Ok(x) => visitor.$visit(x),
                Err(e) => Err(self.refuse($what, e)),
            }
        }
    )*};
}

impl<'de> Deserializer<'de> for FieldText<'de> {
    type Error = RowError;

    numbers! {
        deserialize_bool visit_bool bool "a bool, true or false",
        deserialize_i8 visit_i8 i8 "an i8", deserialize_i16 visit_i16 i16 "an i16", deserialize_i32 visit_i32 i32 "an i32",
        deserialize_i64 visit_i64 i64 "an i64", deserialize_i128 visit_i128 i128 "an i128",
        deserialize_u8 visit_u8 u8 "a u8", deserialize_u16 visit_u16 u16 "a u16", deserialize_u32 visit_u32 u32 "a u32",
        deserialize_u64 visit_u64 u64 "a u64", deserialize_u128 visit_u128 u128 "a u128",
        deserialize_f32 visit_f32 f32 "an f32", deserialize_f64 visit_f64 f64 "an f64",
        deserialize_char visit_char char "one character",
    }

    /// Text of an unknown kind (flattened structs): a number or bool where it reads as one, as the csv crate has it.
    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, RowError> {
        let Self(text) = self;
        if let Ok(x) = text.parse::<bool>() {
            visitor.visit_bool(x)
        } else if let Ok(x) = text.parse::<u64>() {
            visitor.visit_u64(x)
        } else if let Ok(x) = text.parse::<i64>() {
            visitor.visit_i64(x)
        } else if let Ok(x) = text.parse::<f64>() {
            visitor.visit_f64(x)
        } else {
            visitor.visit_borrowed_str(text)
        }
    }
    #[inline]
    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, RowError> {
        visitor.visit_borrowed_str(self.0)
    }
    #[inline]
    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, RowError> {
        visitor.visit_borrowed_str(self.0)
    }
    fn deserialize_identifier<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, RowError> {
        visitor.visit_borrowed_str(self.0)
    }
    fn deserialize_bytes<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, RowError> {
        visitor.visit_borrowed_bytes(self.0.as_bytes())
    }
    fn deserialize_byte_buf<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, RowError> {
        visitor.visit_borrowed_bytes(self.0.as_bytes())
    }
    #[inline]
    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, RowError> {
        if self.0.is_empty() { visitor.visit_none() } else { visitor.visit_some(self) }
    }
    fn deserialize_unit<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, RowError> {
        if self.0.is_empty() { visitor.visit_unit() } else { Err(self.refuse("empty", "the type holds nothing")) }
    }
    fn deserialize_unit_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, RowError> {
        self.deserialize_unit(visitor)
    }
    #[inline]
    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, RowError> {
        visitor.visit_newtype_struct(self)
    }
    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, RowError> {
        let variant: StrDeserializer<'_, RowError> = self.0.into_deserializer();
        visitor.visit_enum(variant)
    }
    #[inline]
    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, RowError> {
        visitor.visit_unit()
    }
    fn deserialize_seq<V: Visitor<'de>>(self, _: V) -> Result<V::Value, RowError> {
        Err(RowError::other("a CSV field holds a single value, not a list"))
    }
    fn deserialize_tuple<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, RowError> {
        self.deserialize_seq(visitor)
    }
    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: usize,
        visitor: V,
    ) -> Result<V::Value, RowError> {
        self.deserialize_seq(visitor)
    }
    fn deserialize_map<V: Visitor<'de>>(self, _: V) -> Result<V::Value, RowError> {
        Err(RowError::other("a CSV field holds a single value, not a struct or map"))
    }
    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, RowError> {
        self.deserialize_map(visitor)
    }
}
