//! Which files a source reads: paths and patterns, as the user wrote them.
use crate::error::{Error, ErrorCode, Result};
use std::path::{Path, PathBuf};

/// One or several paths. Each is a file, or a pattern with `*`, `?`, `[...]` or `**` in the manner of a shell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Paths(Vec<PathBuf>);

macro_rules! from_one {
    ($($t:ty),*) => {$(
        impl From<$t> for Paths {
            fn from(path: $t) -> Self {
                Self(vec![path.into()])
            }
        }
    )*};
}
from_one!(&str, String, &String, PathBuf, &Path, &PathBuf);

impl<P: Into<PathBuf>> From<Vec<P>> for Paths {
    fn from(paths: Vec<P>) -> Self {
        Self(paths.into_iter().map(Into::into).collect())
    }
}
impl<P: Into<PathBuf>, const N: usize> From<[P; N]> for Paths {
    fn from(paths: [P; N]) -> Self {
        Self(paths.into_iter().map(Into::into).collect())
    }
}

fn refuse(path: &Path, why: impl std::fmt::Display) -> Error {
    Error::user(ErrorCode::Config, format!("cannot read {}: {why}", path.display()))
}

impl Paths {
    /// The files, in the order given (those of one pattern by name), each once.
    pub(crate) fn expand(&self) -> Result<Vec<String>> {
        if self.0.is_empty() {
            return Err(Error::user(ErrorCode::Config, "a file source names no file"));
        }
        let mut files: Vec<String> = Vec::new();
        for path in &self.0 {
            for file in expand_one(path)? {
                let name = file.to_str().ok_or_else(|| refuse(&file, "the file's name is not UTF-8"))?;
                if !files.iter().any(|f| f == name) {
                    files.push(name.to_string());
                }
            }
        }
        Ok(files)
    }
}

fn expand_one(path: &Path) -> Result<Vec<PathBuf>> {
    match std::fs::metadata(path) {
        Ok(m) if m.is_dir() => {
            Err(refuse(path, format!("it is a directory; name its files, for example {}", path.join("*").display())))
        }
        Ok(_) => Ok(vec![path.to_path_buf()]),
        Err(e) => {
            let pattern = path.to_str().filter(|p| p.contains(['*', '?', '['])).ok_or_else(|| refuse(path, e))?;
            let found = glob::glob(pattern).map_err(|e| refuse(path, format!("the pattern is malformed: {e}")))?;
            let mut files = Vec::new();
            for file in found {
                let file = file.map_err(|e| refuse(e.path(), e.error()))?;
                if file.is_file() {
                    files.push(file);
                }
            }
            if files.is_empty() { Err(refuse(path, "no file matches the pattern")) } else { Ok(files) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_patterns_and_lists_become_files() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["b.csv", "a.csv", "c.txt", "[x].csv"] {
            std::fs::write(dir.path().join(name), "").unwrap();
        }
        std::fs::create_dir(dir.path().join("d.csv")).unwrap();
        let at = |n: &str| dir.path().join(n).to_str().unwrap().to_string();
        assert_eq!(Paths::from(at("a.csv")).expand().unwrap(), [at("a.csv")]);
        assert_eq!(Paths::from(at("*.csv")).expand().unwrap(), [at("[x].csv"), at("a.csv"), at("b.csv")]);
        // a file whose name looks like a pattern is that file; what several of a list name is read once
        assert_eq!(Paths::from([at("[x].csv"), at("c.txt"), at("c*")]).expand().unwrap(), [at("[x].csv"), at("c.txt")]);
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let says = |p: Paths, what: &str| {
            let e = p.expand().unwrap_err().message;
            assert!(e.contains(what), "{e}");
        };
        says(Paths::from(dir.path().join("missing.csv")), "missing.csv: No such file");
        says(Paths::from(dir.path().join("*.csv")), "no file matches");
        says(Paths::from(dir.path()), "is a directory; name its files");
        says(Paths::from(dir.path().join("a***")), "malformed");
        says(Paths::from(Vec::<String>::new()), "names no file");
    }
}
