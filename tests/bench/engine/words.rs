//! The text of the word count: words of 3 to 10 letters, zipf-distributed (s = 1), in lines of 8 to 15.
use std::fs::File;
use std::io::{self, BufWriter, Write as _};
use std::path::{Path, PathBuf};

use crate::limits::mix;

const VOCABULARY: u64 = 100_000;

fn word(i: u64) -> Vec<u8> {
    let mixed = mix(i + 77);
    let letter = |n: u64| b'a' + (n % 26) as u8;
    let len = 3 + (mixed % 8) as usize;
    let mut word: Vec<u8> = (0..len as u64).map(|j| letter(mix(i * 16 + j))).collect();
    let mut rest = i;
    while rest > 0 {
        word.push(letter(rest));
        rest /= 26;
    }
    word.truncate(len.max(5));
    word
}

fn write(path: &Path, bytes: u64) -> io::Result<()> {
    let mut cumulated = Vec::with_capacity(VOCABULARY as usize);
    let mut total = 0.0;
    for rank in 1..=VOCABULARY {
        total += 1.0 / rank as f64;
        cumulated.push(total);
    }
    let words: Vec<Vec<u8>> = (0..VOCABULARY).map(word).collect();
    let guide: Vec<usize> = (0..65_536)
        .map(|i| {
            let x = f64::from(i) / 65_536.0 * total;
            cumulated.partition_point(|&c| c < x)
        })
        .collect();
    let mut out = BufWriter::with_capacity(1 << 20, File::create(path)?);
    let (mut i, mut written) = (0, 0);
    while written < bytes {
        let words_in_line = 8 + mix(i ^ 0xab_cdef) % 8;
        for j in 0..words_in_line {
            i += 1;
            let mixed = mix(i);
            let x = (mixed >> 11) as f64 / (1u64 << 53) as f64 * total;
            let mut rank = guide[(mixed >> 48) as usize];
            while cumulated[rank] < x {
                rank += 1;
            }
            out.write_all(&words[rank])?;
            out.write_all(if j + 1 == words_in_line { b"\n" } else { b" " })?;
            written += words[rank].len() as u64 + 1;
        }
    }
    out.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()
}

/// The text of that many megabytes in `folder`; written when it is not there yet.
pub fn file(folder: &Path, megabytes: u64) -> io::Result<PathBuf> {
    let path = folder.join(format!("words-{megabytes}.txt"));
    if !path.is_file() {
        let unfinished = folder.join(format!("words-{megabytes}.{}", std::process::id()));
        write(&unfinished, megabytes << 20)?;
        std::fs::rename(unfinished, &path)?;
    }
    Ok(path)
}
