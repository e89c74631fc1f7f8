//! The frame of log entries and manifests: one JSON object with a version and a checksum over its body.
use crate::error::{Error, ErrorCode, Result};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// Version of log entries and manifests.
pub const VERSION: u32 = 1;

#[derive(Serialize)]
struct Sealed<'a> {
    version: u32,
    crc32c: String,
    body: &'a RawValue,
}

#[derive(Deserialize)]
struct Opened<'a> {
    crc32c: String,
    #[serde(borrow)]
    body: &'a RawValue,
}

#[derive(Deserialize)]
struct VersionOnly {
    version: u32,
}

/// `{"version":1,"crc32c":"...","body":{...}}` and a line end.
pub fn seal<T: Serialize>(body: &T) -> Result<Vec<u8>> {
    let broken =
        |e: serde_json::Error| Error::internal(format!("cannot write a checkpoint's description as JSON: {e}"));
    let body = serde_json::value::to_raw_value(body).map_err(broken)?;
    let crc32c = format!("{:08x}", crc32c::crc32c(body.get().as_bytes()));
    let mut bytes = serde_json::to_vec(&Sealed { version: VERSION, crc32c, body: &body }).map_err(broken)?;
    bytes.push(b'\n');
    Ok(bytes)
}

/// The body of what [`seal`] wrote. `file` is named in errors: truncated, corrupt, or of another version.
pub fn open<T: DeserializeOwned>(bytes: &[u8], file: &str) -> Result<T> {
    let bad = |what: String| Error::external(ErrorCode::Snapshot, format!("{file} {what}"));
    let parse = |e: serde_json::Error| match e.is_eof() {
        true => bad(format!("is truncated after {} bytes: it was not written to its end", bytes.len())),
        false => bad(format!("is corrupt: {e}")),
    };
    let version = serde_json::from_slice::<VersionOnly>(bytes).map_err(parse)?.version;
    if version != VERSION {
        return Err(bad(format!(
            "has format version {version}, this Weir ({}) reads version {VERSION}: use the Weir that wrote it",
            env!("CARGO_PKG_VERSION")
        )));
    }
    let opened: Opened<'_> = serde_json::from_slice(bytes).map_err(parse)?;
    let found = format!("{:08x}", crc32c::crc32c(opened.body.get().as_bytes()));
    if found != opened.crc32c {
        return Err(bad(format!("is corrupt: its checksum is {found}, it says {}", opened.crc32c)));
    }
    serde_json::from_str(opened.body.get()).map_err(parse)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sealed() -> Vec<u8> {
        seal(&vec!["some", "text"]).unwrap()
    }
    fn error(bytes: &[u8]) -> String {
        open::<Vec<String>>(bytes, "log/7.json").unwrap_err().to_string()
    }

    #[test]
    fn what_was_sealed_opens() {
        assert_eq!(open::<Vec<String>>(&sealed(), "x").unwrap(), ["some", "text"]);
    }

    #[test]
    fn every_truncation_is_refused() {
        let whole = sealed();
        for n in 0..whole.len() - 2 {
            assert!(error(&whole[..n]).starts_with("log/7.json is truncated"), "{n}: {}", error(&whole[..n]));
        }
    }

    #[test]
    fn every_flipped_bit_is_refused_or_harmless() {
        let whole = sealed();
        for bit in 0..whole.len() * 8 {
            let mut bytes = whole.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            if let Ok(v) = open::<Vec<String>>(&bytes, "x") {
                assert_eq!(v, ["some", "text"], "bit {bit}");
            }
        }
    }

    #[test]
    fn another_version_is_named() {
        let e = error(br#"{"version":7,"crc32c":"0","whatever":[]}"#);
        assert!(e.contains("log/7.json has format version 7") && e.contains("reads version 1"), "{e}");
    }
}
