//! Finds where a CSV record ends when quoted fields may hold line breaks; resumable as more bytes arrive.
use memchr::{memchr, memchr2};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum At {
    #[default]
    FieldStart,
    Unquoted,
    Quoted,
    /// Behind a quote inside a quoted field: the field's end, or the first of two that stand for one.
    Quote,
}

/// The state of one search. Start a new one for each record.
#[derive(Debug, Default)]
pub(crate) struct Scan {
    at: At,
    searched: usize,
}

impl Scan {
    /// Length of the record at the front of `bytes` with its newline, or None when it does not end there. Call again with
    /// the same bytes and more behind them.
    pub fn end(&mut self, bytes: &[u8], delimiter: u8, quote: u8) -> Option<usize> {
        let mut i = self.searched;
        while let Some(&b) = bytes.get(i) {
            self.at = match self.at {
                At::Quoted => match memchr(quote, &bytes[i..]) {
                    Some(n) => {
                        i += n;
                        At::Quote
                    }
                    None => {
                        i = bytes.len() - 1;
                        At::Quoted
                    }
                },
                At::Quote if b == quote => At::Quoted,
                At::FieldStart if b == quote => At::Quoted,
                At::FieldStart | At::Quote | At::Unquoted => match memchr2(delimiter, b'\n', &bytes[i..]) {
                    Some(n) => {
                        i += n;
                        if bytes[i] == b'\n' {
                            return Some(i + 1);
                        }
                        At::FieldStart
                    }
                    None => {
                        i = bytes.len() - 1;
                        At::Unquoted
                    }
                },
            };
            i += 1;
        }
        self.searched = i;
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoted_newlines_belong_to_the_record_however_the_bytes_arrive() {
        let texts = [
            ("a,b\nc", Some(4)),
            ("\"a\nb\",c\nd", Some(8)),
            ("\"a\"\"\nb\"\nd", Some(8)),
            ("5\" disk,x\ny", Some(10)), // a quote inside an unquoted field is text
            ("a,\"\",\"\n\"\nx", Some(9)),
            ("\"open\nfor ever", None),
            ("no newline", None),
            ("", None),
        ];
        for (text, end) in texts {
            for step in 1..=text.len().max(1) {
                let mut scan = Scan::default();
                let found = (1..=text.len().div_ceil(step))
                    .find_map(|k| scan.end(&text.as_bytes()[..(k * step).min(text.len())], b',', b'"'));
                assert_eq!(found, end, "{text:?} by {step}");
            }
        }
    }
}
