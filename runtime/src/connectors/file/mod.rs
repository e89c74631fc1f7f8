//! Files: the source reads lines and CSV, the sink writes part files exactly once.
mod bad;
mod blocks;
mod csv;
mod fields;
mod format;
mod parts;
mod paths;
mod reader;
mod scan;
mod sink;
mod source;
mod split;

pub use bad::{Bad, BadRecord};
pub use csv::{Csv, CsvParser};
pub use format::{Format, Lines, ParseLines, Parser};
pub use paths::Paths;
pub use reader::FileReader;
pub use sink::{FileSink, FileWriter};
pub use source::FileSource;
