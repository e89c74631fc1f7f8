//! CSV: splitting a record into fields, matching columns with the fields of the user's type.
use super::bad::Bad;
use super::fields::{Field, Plan, Row};
use super::format::{Format, Parser};
use crate::data::Data;
use crate::dataflow::Output;
use memchr::{memchr, memchr_iter};
use serde::de::DeserializeOwned;
use std::marker::PhantomData;

/// Comma-separated values, read into a type by serde.
///
/// Fields may be quoted with `"`, with `""` for a quote. A record ends at `\n` or `\r\n`; blank lines are left out. The
/// header's names are matched with the type's fields, in any order; columns that the type does not have are ignored. An
/// empty field is `None` for an `Option`.
pub struct Csv<T> {
    delimiter: u8,
    header: bool,
    by_line: bool,
    record: PhantomData<fn() -> T>,
}

impl<T> Clone for Csv<T> {
    fn clone(&self) -> Self {
        Self { record: PhantomData, ..*self }
    }
}

impl<T> Default for Csv<T> {
    fn default() -> Self {
        Self { delimiter: b',', header: true, by_line: false, record: PhantomData }
    }
}

impl<T> Csv<T> {
    pub(crate) fn set_delimiter(&mut self, delimiter: u8) {
        self.delimiter = delimiter;
    }
    pub(crate) fn set_no_header(&mut self) {
        self.header = false;
    }
    pub(crate) fn set_by_line(&mut self) {
        self.by_line = true;
    }
}

impl<T: Data + DeserializeOwned> Format for Csv<T> {
    type Record = T;
    type Parser = CsvParser<T>;
    fn parser(&self) -> CsvParser<T> {
        CsvParser { split: Splitter::new(self.delimiter), columns: None, plan: Plan::default(), record: PhantomData }
    }
    fn check(&self) -> Result<(), String> {
        match self.delimiter {
            b'"' | b'\n' | b'\r' | 0x80.. => {
                Err(format!("{:?} cannot be the delimiter of CSV fields", self.delimiter as char))
            }
            _ => Ok(()),
        }
    }
    fn has_header(&self) -> bool {
        self.header
    }
    fn by_line(&self) -> bool {
        self.by_line
    }
    fn quoting(&self) -> (u8, u8) {
        (self.delimiter, b'"')
    }
}

/// The parser of [`Csv`].
pub struct CsvParser<T> {
    split: Splitter,
    columns: Option<Vec<String>>,
    plan: Plan,
    record: PhantomData<fn() -> T>,
}

impl<T: Data + DeserializeOwned> CsvParser<T> {
    /// The value of one record that is not blank.
    fn value(&mut self, text: &str) -> Result<T, Box<Bad>> {
        self.split.split(text)?;
        let fields = &self.split.fields;
        if let Some(columns) = &self.columns
            && fields.len() != columns.len()
        {
            let s = |n: usize| if n == 1 { "" } else { "s" };
            return Err(Bad::new(format_args!(
                "it has {} field{}, the header has {}",
                fields.len(),
                s(fields.len()),
                columns.len()
            )));
        }
        let mut row = Row::new(text, &self.split.unescaped, fields, self.columns.as_deref(), &mut self.plan);
        row.value::<T>()
    }
}

impl<T: Data + DeserializeOwned> Parser for CsvParser<T> {
    type Record = T;

    fn header(&mut self, text: &str) -> Result<(), Box<Bad>> {
        self.split.split(text).map_err(|e| Bad::fatal(format_args!("the header cannot be read: {}", e.reason)))?;
        let columns: Vec<String> =
            self.split.fields.iter().map(|f| f.text(text, &self.split.unescaped).to_string()).collect();
        if columns.iter().all(String::is_empty) {
            return Err(Bad::fatal("the file has no header line that names its columns"));
        }
        (self.columns, self.plan) = (Some(columns), Plan::default());
        Ok(())
    }

    #[inline]
    fn parse(&mut self, text: &str, out: &mut Output<T>) -> Result<(), Box<Bad>> {
        if !text.is_empty() {
            out.push(self.value(text)?);
        }
        Ok(())
    }
}

/// Cuts a record into fields, reusing its memory.
#[derive(Debug)]
struct Splitter {
    delimiter: u8,
    fields: Vec<Field>,
    /// Texts of quoted fields that hold `""`.
    unescaped: String,
}

impl Splitter {
    fn new(delimiter: u8) -> Self {
        Self { delimiter, fields: Vec::new(), unescaped: String::new() }
    }

    fn split(&mut self, text: &str) -> Result<(), Box<Bad>> {
        self.fields.clear();
        let bytes = text.as_bytes();
        if memchr(b'"', bytes).is_some() {
            return self.split_quoted(text);
        }
        let mut start = 0;
        for end in memchr_iter(self.delimiter, bytes) {
            self.fields.push(Field::plain(start, end));
            start = end + 1;
        }
        self.fields.push(Field::plain(start, bytes.len()));
        Ok(())
    }

    fn split_quoted(&mut self, text: &str) -> Result<(), Box<Bad>> {
        self.unescaped.clear();
        let bytes = text.as_bytes();
        let mut start = 0;
        loop {
            let end = if bytes.get(start) == Some(&b'"') {
                self.quoted(text, start + 1)?
            } else {
                let end = memchr(self.delimiter, &bytes[start..]).map_or(bytes.len(), |n| start + n);
                self.fields.push(Field::plain(start, end));
                end
            };
            match bytes.get(end) {
                None => return Ok(()),
                Some(&b) if b == self.delimiter => start = end + 1,
                Some(_) => {
                    return Err(Bad::new(format_args!("field {} goes on after its closing quote", self.fields.len())));
                }
            }
        }
    }

    /// Takes the field whose text begins at `start`, behind its quote; gives the place behind the closing quote.
    fn quoted(&mut self, text: &str, start: usize) -> Result<usize, Box<Bad>> {
        let bytes = text.as_bytes();
        let kept = self.unescaped.len();
        let (mut from, mut escapes) = (start, false);
        loop {
            let Some(n) = memchr(b'"', &bytes[from..]) else {
                return Err(Bad::new(format_args!(
                    "the quote before field {} is never closed (a quoted line break is not allowed where the source is set to one record per line)",
                    self.fields.len() + 1
                )));
            };
            let quote = from + n;
            if bytes.get(quote + 1) == Some(&b'"') {
                self.unescaped.push_str(&text[from..=quote]);
                from = quote + 2;
                escapes = true;
                continue;
            }
            self.fields.push(if escapes {
                self.unescaped.push_str(&text[from..quote]);
                Field::unescaped(kept, self.unescaped.len())
            } else {
                Field::plain(start, quote)
            });
            return Ok(quote + 1);
        }
    }
}

#[cfg(test)]
mod tests;
