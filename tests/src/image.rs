//! Container images as reproducible OCI archives: one binary, the shared libraries that it needs, nothing else.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::checkout;
use crate::cluster::parts::hex;
use crate::cmd::Cmd;

/// Image names of this harness live under a registry that does not exist: they are loaded, never pulled.
pub const REGISTRY: &str = "weir.test";
const USER: &str = "65532:65532";

/// What goes into an image.
#[derive(Debug, Clone)]
pub struct ImageSpec {
    /// `registry/name:tag`; without a tag it gets one made of its content, so that another content is another image.
    pub name: String,
    /// The program; it becomes `/<file name>` and the entry point.
    pub binary: PathBuf,
    /// Arguments that stand behind the program in the entry point.
    pub entrypoint_args: Vec<String>,
    /// Further files: (absolute path inside, file of this machine).
    pub files: Vec<(String, PathBuf)>,
    /// Further content: (absolute path inside, bytes).
    pub contents: Vec<(String, Vec<u8>)>,
    /// Compress the layer: smaller to move, slower to load.
    pub gzip: bool,
}

impl ImageSpec {
    pub fn new(name: impl Into<String>, binary: &Path) -> Self {
        Self {
            name: name.into(),
            binary: binary.to_path_buf(),
            entrypoint_args: Vec::new(),
            files: Vec::new(),
            contents: Vec::new(),
            gzip: false,
        }
    }

    #[must_use]
    pub fn args<S: Into<String>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.entrypoint_args = args.into_iter().map(Into::into).collect();
        self
    }

    #[must_use]
    pub fn file(mut self, inside: impl Into<String>, file: &Path) -> Self {
        self.files.push((inside.into(), file.to_path_buf()));
        self
    }

    /// A small file by its content: a way to make two images of one binary that differ.
    #[must_use]
    pub fn content(mut self, inside: impl Into<String>, bytes: impl Into<Vec<u8>>) -> Self {
        self.contents.push((inside.into(), bytes.into()));
        self
    }

    #[must_use]
    pub fn gzip(mut self) -> Self {
        self.gzip = true;
        self
    }
}

/// A built image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// `registry/name:tag`, as a pod names it.
    pub reference: String,
    /// The OCI archive.
    pub archive: PathBuf,
    /// Bytes of the unpacked layer.
    pub size: u64,
}

impl Image {
    /// (`registry/name`, `tag`), as charts want it.
    pub fn split(&self) -> (&str, &str) {
        split_tag(&self.reference).unwrap_or((&self.reference, "latest"))
    }
}

/// Builds the image into `dir`. The same content gives the same bytes, at any time and in any folder.
pub fn build_image(spec: &ImageSpec, dir: &Path) -> Result<Image> {
    let program = spec
        .binary
        .file_name()
        .and_then(|name| name.to_str())
        .with_context(|| format!("{} has no file name", spec.binary.display()))?;
    let mut files: BTreeMap<String, (Vec<u8>, u32)> = BTreeMap::new();
    let mut add = |inside: &str, bytes: Vec<u8>, mode: u32| -> Result<()> {
        let name = inside.trim_start_matches('/');
        if name.is_empty() || !inside.starts_with('/') || name.split('/').any(|part| part == "..") {
            bail!("{inside:?} is no absolute path for a file of an image");
        }
        files.insert(name.to_owned(), (bytes, mode));
        Ok(())
    };
    let read = |path: &Path| fs::read(path).with_context(|| format!("cannot read {}", path.display()));
    for library in libraries(&spec.binary)? {
        let bytes = read(Path::new(&library))?;
        add(&library, bytes, 0o755)?;
    }
    for (inside, file) in &spec.files {
        add(inside, read(file)?, 0o644)?;
    }
    for (inside, bytes) in &spec.contents {
        add(inside, bytes.clone(), 0o644)?;
    }
    add(&format!("/{program}"), read(&spec.binary)?, 0o755)?;

    let plain = layer(&files)?;
    let diff_id = digest(&plain);
    let size = plain.len() as u64;
    let (layer, layer_type) = if spec.gzip {
        (gzip(&plain)?, "application/vnd.oci.image.layer.v1.tar+gzip")
    } else {
        (plain, "application/vnd.oci.image.layer.v1.tar")
    };
    let mut entrypoint = vec![format!("/{program}")];
    entrypoint.extend(spec.entrypoint_args.iter().cloned());
    let config = serde_json::to_vec(&json!({
        "architecture": architecture(),
        "os": "linux",
        "created": "1970-01-01T00:00:00Z",
        "config": {"Entrypoint": entrypoint, "User": USER, "WorkingDir": "/"},
        "rootfs": {"type": "layers", "diff_ids": [diff_id]},
    }))?;
    let manifest = serde_json::to_vec(&json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": descriptor("application/vnd.oci.image.config.v1+json", &config),
        "layers": [descriptor(layer_type, &layer)],
    }))?;
    let reference = match split_tag(&spec.name) {
        Some(_) => spec.name.clone(),
        None => format!("{}:{}", spec.name, &digest(&manifest)["sha256:".len()..][..12]),
    };
    let archive = dir.join(format!("{}.tar", reference.replace(['/', ':'], "_")));
    write_archive(&archive, &reference, &config, &manifest, &layer)?;
    Ok(Image { reference, archive, size })
}

fn write_archive(archive: &Path, reference: &str, config: &[u8], manifest: &[u8], layer: &[u8]) -> Result<()> {
    let mut main = descriptor("application/vnd.oci.image.manifest.v1+json", manifest);
    let tag = split_tag(reference).map_or("latest", |(_, tag)| tag);
    main["annotations"] = json!({"io.containerd.image.name": reference, "org.opencontainers.image.ref.name": tag});
    main["platform"] = json!({"architecture": architecture(), "os": "linux"});
    let index = serde_json::to_vec(&json!({"schemaVersion": 2, "manifests": [main]}))?;
    let mut files = BTreeMap::from([
        ("index.json".to_owned(), (index, 0o644)),
        ("oci-layout".to_owned(), (br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec(), 0o644)),
    ]);
    for blob in [config, manifest, layer] {
        files.insert(blob_path(blob), (blob.to_vec(), 0o644));
    }
    let dir = archive.parent().context("an archive needs a folder")?;
    fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    // Whole or absent, also when two processes build the same image.
    let mut file = tempfile::NamedTempFile::new_in(dir).context("cannot make an archive")?;
    file.write_all(&self::layer(&files)?)?;
    file.persist(archive).with_context(|| format!("cannot write {}", archive.display()))?;
    Ok(())
}

/// A tar of these files and their folders, in order of their names, without times and owners.
fn layer(files: &BTreeMap<String, (Vec<u8>, u32)>) -> Result<Vec<u8>> {
    let mut tar = tar::Builder::new(Vec::new());
    let mut folders = BTreeSet::new();
    for name in files.keys() {
        for folder in Path::new(name).ancestors().skip(1).filter(|dir| *dir != Path::new("")) {
            folders.insert(format!("{}/", folder.display()));
        }
    }
    for folder in folders {
        append(&mut tar, &folder, &[], 0o755, tar::EntryType::Directory)?;
    }
    for (name, (bytes, mode)) in files {
        append(&mut tar, name, bytes, *mode, tar::EntryType::Regular)?;
    }
    Ok(tar.into_inner()?)
}

fn append(tar: &mut tar::Builder<Vec<u8>>, name: &str, bytes: &[u8], mode: u32, kind: tar::EntryType) -> Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(bytes.len() as u64);
    tar.append_data(&mut header, name, bytes).with_context(|| format!("cannot pack {name}"))
}

fn gzip(bytes: &[u8]) -> Result<Vec<u8>> {
    // The header's time stays 0.
    let mut out = flate2::GzBuilder::new().mtime(0).write(Vec::new(), flate2::Compression::new(6));
    out.write_all(bytes)?;
    Ok(out.finish()?)
}

/// Absolute paths of the shared libraries that a program needs, with the loader; none when it is static.
fn libraries(binary: &Path) -> Result<Vec<String>> {
    let output = Cmd::new("ldd").arg(binary).env("LC_ALL", "C").output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    if errors.contains("not a dynamic executable") || text.contains("statically linked") {
        return Ok(Vec::new());
    }
    if !output.status.success() {
        bail!("ldd {}: {}", binary.display(), errors.trim());
    }
    parse_ldd(&text).with_context(|| format!("the libraries of {}", binary.display()))
}

fn parse_ldd(text: &str) -> Result<Vec<String>> {
    let mut paths = Vec::new();
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let (name, found) = line.split_once(" => ").unwrap_or((line, line));
        let path = found.split(" (").next().unwrap_or_default();
        if path.starts_with('/') {
            paths.push(path.to_owned());
        } else if found == "not found" {
            bail!("{name} is not on this machine");
        }
        // What is left is the kernel's own (linux-vdso).
    }
    Ok(paths)
}

fn split_tag(name: &str) -> Option<(&str, &str)> {
    name.rsplit_once(':').filter(|(_, tag)| !tag.contains('/'))
}

fn descriptor(media_type: &str, blob: &[u8]) -> Value {
    json!({"mediaType": media_type, "digest": digest(blob), "size": blob.len()})
}

fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex(&Sha256::digest(bytes)))
}

fn blob_path(blob: &[u8]) -> String {
    format!("blobs/sha256/{}", hex(&Sha256::digest(blob)))
}

fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// A small program of this crate (`weir-pause`, `weir-probe`): beside the running one, else built.
pub fn own_binary(name: &str) -> Result<PathBuf> {
    let own = std::env::current_exe().context("cannot find this program's own file")?;
    // Test binaries lie one folder deeper.
    for dir in own.ancestors().skip(1).take(2) {
        let candidate = dir.join(name);
        if candidate.is_file() {
            return Ok(candidate);
        }
    }
    cargo_build(&["--bin", name])?.remove(name).with_context(|| format!("cargo built no {name}"))
}

/// Runs `cargo build` in the checkout; returns the programs that it names, built now or before, by name.
///
/// For the whole workspace: for single packages cargo chooses other features of the crates that they share, and builds those
/// crates, and all that uses them, once more.
pub fn cargo_build(args: &[&str]) -> Result<BTreeMap<String, PathBuf>> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let lines = Cmd::new(cargo)
        .args(["build", "--workspace", "--message-format=json-render-diagnostics"])
        .args(args)
        .dir(&checkout())
        .stdout()?;
    let mut programs = BTreeMap::new();
    for line in lines.lines() {
        let Ok(message) = serde_json::from_str::<Value>(line) else {
            continue;
        };
        let (Some(name), Some(file)) = (message["target"]["name"].as_str(), message["executable"].as_str()) else {
            continue;
        };
        programs.insert(name.to_owned(), PathBuf::from(file));
    }
    Ok(programs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_content_gives_the_same_archive_and_another_content_another_tag() {
        let dir = tempfile::tempdir().expect("dir");
        let binary = dir.path().join("job");
        fs::write(&binary, "#!/no/interpreter\n").expect("binary");
        let spec = ImageSpec::new("weir.test/job", &binary).content("/etc/version", "1");
        let first = build_image(&spec, &dir.path().join("a")).expect("image");
        let again = build_image(&spec, &dir.path().join("b")).expect("image");
        assert_eq!(first.reference, again.reference);
        assert_eq!(fs::read(&first.archive).expect("a"), fs::read(&again.archive).expect("b"));
        let other = ImageSpec::new("weir.test/job", &binary).content("/etc/version", "2");
        let other = build_image(&other, dir.path()).expect("image");
        assert_ne!(first.reference, other.reference);
    }

    #[test]
    fn a_layer_holds_program_libraries_and_files_without_times_and_owners() {
        let dir = tempfile::tempdir().expect("dir");
        let this = std::env::current_exe().expect("this");
        let binary = dir.path().join("job");
        fs::copy(&this, &binary).expect("copy");
        let spec = ImageSpec::new("weir.test/job:1", &binary).content("/data/in.csv", "x").gzip();
        let image = build_image(&spec, dir.path()).expect("image");
        assert_eq!(image.split(), ("weir.test/job", "1"));
        let mut layer = None;
        let mut archive = tar::Archive::new(fs::File::open(&image.archive).expect("archive"));
        for entry in archive.entries().expect("entries") {
            let mut bytes = Vec::new();
            std::io::Read::read_to_end(&mut entry.expect("entry"), &mut bytes).expect("bytes");
            if bytes.starts_with(&[0x1f, 0x8b]) {
                layer = Some(bytes);
            }
        }
        let layer = layer.expect("a compressed layer");
        let mut names = Vec::new();
        let mut tar = tar::Archive::new(flate2::read::GzDecoder::new(&layer[..]));
        for entry in tar.entries().expect("entries") {
            let entry = entry.expect("entry");
            assert_eq!((entry.header().mtime().ok(), entry.header().uid().ok()), (Some(0), Some(0)));
            names.push(entry.path().expect("path").display().to_string());
        }
        for wanted in ["job", "data/in.csv", "libc.so.6", "ld-linux"] {
            assert!(names.iter().any(|name| name.contains(wanted)), "{wanted} in {names:?}");
        }
        assert!(!names.iter().any(|name| name.ends_with("/sh")), "{names:?}");
    }

    #[test]
    fn a_missing_library_is_an_error_that_names_it() {
        let error = parse_ldd("\tlinux-vdso.so.1 (0x7)\n\tlibodd.so.1 => not found\n").expect_err("error");
        assert!(error.to_string().contains("libodd.so.1"), "{error}");
    }

    #[test]
    fn files_cannot_leave_the_image() {
        let dir = tempfile::tempdir().expect("dir");
        let binary = dir.path().join("job");
        fs::write(&binary, "x").expect("binary");
        for bad in ["relative", "/../etc/passwd", "/"] {
            let spec = ImageSpec::new("weir.test/job", &binary).content(bad, "x");
            assert!(build_image(&spec, dir.path()).is_err(), "{bad}");
        }
    }
}
