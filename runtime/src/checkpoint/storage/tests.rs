use super::*;

fn job() -> JobName {
    JobName { namespace: "default".into(), name: "flights".into() }
}
fn storage(dir: &tempfile::TempDir) -> Storage {
    Storage::open(dir.path().to_str().unwrap(), &job()).unwrap()
}

#[tokio::test]
async fn nothing_is_overwritten_and_nothing_staged_shows() {
    let dir = tempfile::tempdir().unwrap();
    let s = storage(&dir);
    assert!(matches!(s.put("chk-1/a", "first").await, Put::Created));
    assert!(matches!(s.put("chk-1/a", "second").await, Put::Exists));
    assert_eq!(s.get("chk-1/a").await.unwrap().unwrap(), "first");
    // left behind by a process that was killed while it wrote
    std::fs::write(dir.path().join("default/flights/chk-1/b#17"), "half").unwrap();
    assert_eq!(s.list_files("chk-1").await.unwrap(), ["a"]);
    assert_eq!(s.list_folders("").await.unwrap(), ["chk-1"]);
    assert_eq!(s.get("chk-1/none").await.unwrap(), None);
    s.delete_folder("chk-1").await.unwrap();
    s.delete_folder("chk-1").await.unwrap();
    assert_eq!(s.list_folders("").await.unwrap(), Vec::<String>::new());
}

#[tokio::test]
async fn a_folder_that_cannot_be_listed_is_not_an_empty_one() {
    let dir = tempfile::tempdir().unwrap();
    let s = storage(&dir);
    assert_eq!(s.list_files("log").await.unwrap(), Vec::<String>::new());
    let log = dir.path().join("default/flights/log");
    std::os::unix::fs::symlink("log", &log).unwrap();
    let e = s.list_files("log").await.unwrap_err();
    assert!(e.code == ErrorCode::Storage && e.message.contains("cannot list"), "{e}");
    std::fs::remove_file(&log).unwrap();
    std::fs::write(&log, "").unwrap();
    assert!(s.list_files("log").await.unwrap_err().message.contains("not a folder"));
}

#[tokio::test]
async fn one_of_many_writers_creates_a_name() {
    let dir = tempfile::tempdir().unwrap();
    let s = storage(&dir);
    let puts = (0..16).map(|i| {
        let s = s.clone();
        tokio::spawn(async move { (i, s.put("log/0.json", format!("writer {i}")).await) })
    });
    let mut won = Vec::new();
    for put in puts.collect::<Vec<_>>() {
        match put.await.unwrap() {
            (i, Put::Created) => won.push(i),
            (_, Put::Exists) => {}
            (_, other) => panic!("{other:?}"),
        }
    }
    let [winner] = won[..] else { panic!("{won:?}") };
    assert_eq!(s.get("log/0.json").await.unwrap().unwrap(), format!("writer {winner}"));
    assert_eq!(std::fs::read_dir(dir.path().join("default/flights/log")).unwrap().count(), 1);
}

#[tokio::test]
async fn a_damaged_file_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let s = storage(&dir);
    let file = s.write("chk-1/state", "0123456789").await.unwrap();
    assert_eq!(s.read(&file).await.unwrap(), "0123456789");
    let path = dir.path().join("default/flights/chk-1/state");
    let error = async |contents: Option<&str>| {
        match contents {
            Some(c) => std::fs::write(&path, c).unwrap(),
            None => std::fs::remove_file(&path).unwrap(),
        }
        let e = s.read(&file).await.unwrap_err().to_string();
        assert!(e.contains(path.to_str().unwrap()), "{e}");
        e
    };
    assert!(error(Some("01234")).await.contains("is truncated: it has 5 bytes, its manifest says 10"));
    assert!(error(Some("0123456780")).await.contains("is corrupt: its checksum"));
    assert!(error(None).await.contains("is missing"));
}

#[tokio::test]
async fn savepoints_may_lie_elsewhere() {
    let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let s = storage(&dir);
    let path = format!("file://{}/new/savepoint-1/state", other.path().display());
    let file = s.write(&path, "x").await.unwrap();
    assert_eq!(file.path, path);
    assert_eq!(s.read(&file).await.unwrap(), "x");
    assert_eq!(s.get(&format!("file://{}/not/there", other.path().display())).await.unwrap(), None);
    s.delete_folder(&format!("file://{}/new/savepoint-1", other.path().display())).await.unwrap();
    assert!(other.path().join("new").is_dir() && !other.path().join("new/savepoint-1").exists());
    // nothing but a snapshot's folder is ever deleted
    for path in ["log", "file:///tmp", &format!("file://{}/new", other.path().display())] {
        assert!(s.delete_folder(path).await.is_err(), "{path}");
    }
}

#[test]
fn paths_that_people_give_become_those_of_the_log() {
    let dir = tempfile::tempdir().unwrap();
    let s = storage(&dir);
    let root = dir.path().join("default/flights").display().to_string();
    for given in [
        "chk-3-1-ab".to_owned(),
        "chk-3-1-ab/_metadata.json".into(),
        format!("file://{root}/chk-3-1-ab/"),
        format!("{root}/chk-3-1-ab"),
    ] {
        assert_eq!(s.normalize(&given).unwrap(), "chk-3-1-ab", "{given}");
    }
    assert_eq!(s.normalize("/elsewhere/sp/").unwrap(), "file:///elsewhere/sp");
    for bad in ["", "../other", "s3://bucket/x", "file://host/x", "/a/../b"] {
        assert!(s.normalize(bad).is_err(), "{bad}");
    }
}

#[test]
fn a_url_that_cannot_be_used_is_refused_with_the_reason() {
    let open = |url: &str, job: &JobName| Storage::open(url, job).unwrap_err().to_string();
    assert!(open("s3://bucket/x", &job()).contains("s3:// is not supported"));
    assert!(open("file://checkpoints", &job()).contains("three slashes"));
    assert!(open("checkpoints", &job()).contains("is not absolute"));
    let bad = JobName { namespace: "..".into(), name: "x".into() };
    assert!(open("/tmp", &bad).contains("cannot be a folder"));
    let e = Storage::open_existing("/does/not/exist", &job()).unwrap_err().to_string();
    assert!(e.contains("/does/not/exist/default/flights does not exist"), "{e}");
}

/// A device that is always full: every write fails as on a full disk.
#[test]
fn a_full_disk_is_explained() {
    let e =
        local::explain("write", FsPath::new("/checkpoints/x"), &std::io::Error::from(std::io::ErrorKind::StorageFull));
    assert!(
        e.to_string().contains("cannot write /checkpoints/x") && e.to_string().contains("the storage is full"),
        "{e}"
    );
}

#[tokio::test]
async fn a_storage_that_refuses_says_that_nothing_was_put() {
    let dir = tempfile::tempdir().unwrap();
    let s = storage(&dir);
    // a file where the folder should be
    std::fs::write(dir.path().join("default/flights/chk-1"), "").unwrap();
    assert!(matches!(s.put("chk-1/a", "x").await, Put::Refused(_)));
}

#[tokio::test]
async fn what_killed_writers_staged_is_swept_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let s = Storage::open(dir.path().to_str().unwrap(), &job()).unwrap();
    assert!(matches!(s.put("log/00000000000000000001.json", "{}").await, Put::Created));
    let log = dir.path().join("default/flights/log");
    for name in ["00000000000000000002.json#4711", "notes#1a", "notes.txt"] {
        std::fs::write(log.join(name), "half").unwrap();
    }
    s.sweep_staged("log", |_| true).await.unwrap();
    let mut left: Vec<_> = std::fs::read_dir(&log).unwrap().map(|e| e.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left, ["00000000000000000001.json", "notes#1a", "notes.txt"]);
}

/// In uneven pieces, around the sizes at which buffers are written and uploads are cut into parts.
#[tokio::test]
async fn a_file_that_is_written_piece_by_piece_is_there_when_it_is_whole() {
    let dir = tempfile::tempdir().unwrap();
    let memory = Storage::open("memory:pieces", &job()).unwrap();
    for s in [storage(&dir), memory] {
        for size in [0, 1, 4096, 4 << 20, (4 << 20) + 1, 9_300_001, 17 << 20] {
            let bytes: Vec<u8> = (0..size as u32).map(|i| (i.wrapping_mul(0x9E37_79B9) >> 24) as u8).collect();
            let (writer, path) = (s.clone(), format!("shared/{size}"));
            let (at, expected) = (path.clone(), bytes.clone());
            let file = tokio::task::spawn_blocking(move || {
                let mut file = writer.create(&at).unwrap();
                let mut rest = &bytes[..];
                for n in (1..).map(|i: usize| i * 77_777) {
                    let (now, later) = rest.split_at(n.min(rest.len()));
                    file.write(now).unwrap();
                    rest = later;
                    if rest.is_empty() {
                        break;
                    }
                }
                let before = writer.clone();
                let name = at.clone();
                assert!(
                    tokio::runtime::Handle::current().block_on(async { before.get(&name).await }).unwrap().is_none()
                );
                file.finish().unwrap()
            });
            let file = file.await.unwrap();
            assert_eq!((file.path.as_str(), file.size), (path.as_str(), size as u64));
            assert!(s.read(&file).await.unwrap() == expected, "{size}");
        }
    }
}

#[tokio::test]
async fn a_file_that_is_given_up_leaves_nothing_and_a_taken_name_is_not_overwritten() {
    let dir = tempfile::tempdir().unwrap();
    let s = storage(&dir);
    s.write("shared/taken", "first").await.unwrap();
    tokio::task::spawn_blocking({
        let s = s.clone();
        move || {
            let mut file = s.create("shared/given-up").unwrap();
            file.write(&vec![7; 9 << 20]).unwrap();
            drop(file);
            let mut file = s.create("shared/taken").unwrap();
            file.write(&vec![7; 9 << 20]).unwrap();
            assert!(file.finish().unwrap_err().to_string().contains("shared/taken exists already"));
        }
    })
    .await
    .unwrap();
    let names = std::fs::read_dir(dir.path().join("default/flights/shared")).unwrap();
    assert_eq!(names.map(|f| f.unwrap().file_name()).collect::<Vec<_>>(), ["taken"]);
    assert_eq!(s.get("shared/taken").await.unwrap().unwrap(), "first");
}
