//! The seam between finding records in a file and making values of them; and the formats that read line by line.
use super::bad::Bad;
use crate::data::{Data, Str};
use crate::dataflow::Output;
use std::marker::PhantomData;
use std::sync::Arc;

/// How a file's text becomes records.
pub trait Format: Clone + Send + Sync + 'static {
    type Record: Data;
    type Parser: Parser<Record = Self::Record>;
    fn parser(&self) -> Self::Parser;
    /// Refuses settings that make no sense.
    fn check(&self) -> Result<(), String> {
        Ok(())
    }
    /// Whether the first record of a file is a header.
    fn has_header(&self) -> bool {
        false
    }
    /// Whether each line is a record. Otherwise a quoted line break belongs to its record, and files are not cut.
    fn by_line(&self) -> bool {
        true
    }
    /// Field delimiter and quote, of formats that are not by line.
    fn quoting(&self) -> (u8, u8) {
        (b',', b'"')
    }
}

/// Makes values of one record's text.
pub trait Parser: Send + 'static {
    type Record: Data;
    /// Takes the header of the file that is read next.
    fn header(&mut self, _text: &str) -> Result<(), Box<Bad>> {
        Ok(())
    }
    /// Emits what the text holds. The text has no line break at its end.
    fn parse(&mut self, text: &str, out: &mut Output<Self::Record>) -> Result<(), Box<Bad>>;
}

/// Each line is a record, without its line break (`\n` or `\r\n`).
#[derive(Debug, Clone, Copy, Default)]
pub struct Lines;

impl Format for Lines {
    type Record = Str;
    type Parser = Self;
    fn parser(&self) -> Self {
        Self
    }
}

impl Parser for Lines {
    type Record = Str;
    #[inline]
    fn parse(&mut self, text: &str, out: &mut Output<Str>) -> Result<(), Box<Bad>> {
        out.push(Str::new(text));
        Ok(())
    }
}

/// Each line goes to a function that emits any number of records.
pub struct ParseLines<T, F> {
    parse: Arc<F>,
    record: PhantomData<fn() -> T>,
}

impl<T, F> ParseLines<T, F> {
    pub(crate) fn new(parse: F) -> Self {
        Self { parse: Arc::new(parse), record: PhantomData }
    }
}

impl<T, F> Clone for ParseLines<T, F> {
    fn clone(&self) -> Self {
        Self { parse: self.parse.clone(), record: PhantomData }
    }
}

impl<T: Data, F: Fn(&str, &mut Output<T>) -> anyhow::Result<()> + Send + Sync + 'static> Format for ParseLines<T, F> {
    type Record = T;
    type Parser = Self;
    fn parser(&self) -> Self {
        self.clone()
    }
}

impl<T: Data, F: Fn(&str, &mut Output<T>) -> anyhow::Result<()> + Send + Sync + 'static> Parser for ParseLines<T, F> {
    type Record = T;
    #[inline]
    fn parse(&mut self, text: &str, out: &mut Output<T>) -> Result<(), Box<Bad>> {
        (self.parse)(text, out).map_err(|e| Bad::new(format_args!("{e:#}")))
    }
}
