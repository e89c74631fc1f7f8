use super::*;
use proptest::prelude::*;

fn file(name: &str, size: u64) -> FileHandle {
    FileHandle { path: name.into(), size, crc32c: 0 }
}

fn told(epoch: u32) -> Vec<Option<Told>> {
    vec![Some(Told { epoch, complete_since: 0 })]
}

/// Writes checkpoint `n` as planned; its file has `size` bytes. Returns what its chain's files are.
fn write(i: &mut Increments, n: u64, size: u64) -> (Option<u32>, Vec<String>) {
    let tables = told(n as u32);
    let plan = i.plan(&tables);
    let since = plan.since[0];
    let handle = i.written(CheckpointId(n), plan, &tables, Some(file(&format!("{n}"), size)), 0..128, 10);
    (since, handle.unwrap().files().map(|f| f.path.clone()).collect())
}

#[test]
fn each_builds_on_the_last_completed_one() {
    let mut i = Increments::default();
    assert_eq!(write(&mut i, 1, 1000), (None, vec!["1".into()]));
    // two are under way at once, and the first is aborted
    assert_eq!(write(&mut i, 2, 1000), (None, vec!["2".into()]));
    i.aborted(CheckpointId(1));
    i.completed(CheckpointId(2));
    assert_eq!(write(&mut i, 3, 10), (Some(2), vec!["2".into(), "3".into()]));
    i.aborted(CheckpointId(3));
    assert_eq!(
        write(&mut i, 4, 20),
        (Some(2), vec!["2".into(), "4".into()]),
        "what the aborted one had is written again"
    );
    i.completed(CheckpointId(4));
    assert_eq!(write(&mut i, 5, 1), (Some(4), vec!["2".into(), "4".into(), "5".into()]));
    // a completion that is heard of late changes nothing
    i.completed(CheckpointId(3));
    assert_eq!(i.plan(&told(6)).since, [Some(4)]);
    assert_eq!(i.floors(), [2]);
}

#[test]
fn changes_of_half_the_base_make_a_new_base() {
    let mut i = Increments::default();
    write(&mut i, 1, 1000);
    i.completed(CheckpointId(1));
    write(&mut i, 2, 499);
    i.completed(CheckpointId(2));
    assert_eq!(i.plan(&told(3)).since, [Some(2)]);
    write(&mut i, 3, 1);
    i.completed(CheckpointId(3));
    assert_eq!(write(&mut i, 4, 1000), (None, vec!["4".into()]));
    i.completed(CheckpointId(4));
    assert_eq!(i.floors(), [4]);
}

#[test]
fn a_table_that_cannot_tell_is_written_whole_beside_others_that_can() {
    let mut i = Increments::default();
    let tables = |epoch, complete_since| {
        vec![Some(Told { epoch, complete_since: 0 }), None, Some(Told { epoch, complete_since })]
    };
    let plan = i.plan(&tables(1, 0));
    i.written(CheckpointId(1), plan, &tables(1, 0), Some(file("1", 1000)), 0..1, 1);
    i.completed(CheckpointId(1));
    assert_eq!(i.plan(&tables(2, 0)).since, [Some(1), None, Some(1)]);
    assert_eq!(i.plan(&tables(2, 2)).since, [Some(1), None, None], "it has forgotten removals");
    assert!(!i.plan(&tables(2, 0)).may_be_empty(), "that a table which is written whole is empty must be said");
    // nothing that can be told: a base
    assert_eq!(i.plan(&[None, None, None]), Plan::whole(3));
    assert_eq!(i.plan(&told(2)), Plan::whole(1), "other tables than before");
}

#[test]
fn without_changes_the_files_stay_as_they_are() {
    let mut i = Increments::default();
    write(&mut i, 1, 1000);
    i.completed(CheckpointId(1));
    let plan = i.plan(&told(2));
    assert!(plan.may_be_empty());
    let handle = i.written(CheckpointId(2), plan, &told(2), None, 0..128, 10).unwrap();
    assert_eq!((handle.file.path.as_str(), handle.deltas.len()), ("1", 0));
    i.completed(CheckpointId(2));
    assert_eq!(i.plan(&told(3)).since, [Some(1)]);
    // all keys are gone: no file at all, and the next one is a base
    let gone = i.written(CheckpointId(3), Plan::whole(1), &told(3), None, 0..128, 0);
    assert_eq!(gone, None);
    i.completed(CheckpointId(3));
    assert_eq!(i.plan(&told(4)), Plan::whole(1));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// Keys are written at random; the files hold what they say. Any chain of a completed checkpoint gives what was there,
    /// is short, reads at most a base and as much again, and nothing is written too often.
    #[test]
    fn chains_are_short_and_hold_everything(
        steps in prop::collection::vec((prop::collection::vec(0u16..400, 0..20), 0u8..10), 1..120),
        hot in any::<bool>(),
    ) {
        let mut i = Increments::default();
        let mut last_write = BTreeMap::<u16, u32>::new();
        let mut contents = BTreeMap::<String, BTreeMap<u16, u32>>::new();
        let (mut uploaded, mut changed) = (0u64, 0u64);
        let (mut one_is_complete, mut before_one_is) = (false, 0u64);
        for k in 0..400 {
            last_write.insert(k, 0);
        }
        for (n, (writes, fate)) in (1u32..).zip(steps) {
            for k in writes {
                changed += 1;
                last_write.insert(if hot { k % 40 } else { k }, n);
            }
            let tables = told(n);
            let plan = i.plan(&tables);
            let since = plan.since[0];
            let file_of: BTreeMap<u16, u32> =
                last_write.iter().filter(|(_, e)| since.is_none_or(|s| **e > s)).map(|(k, e)| (*k, *e)).collect();
            let handle = if file_of.is_empty() && plan.may_be_empty() {
                i.written(CheckpointId(n.into()), plan, &tables, None, 0..1, 400)
            } else {
                uploaded += file_of.len() as u64;
                let f = file(&n.to_string(), file_of.len() as u64);
                contents.insert(f.path.clone(), file_of);
                i.written(CheckpointId(n.into()), plan, &tables, Some(f), 0..1, 400)
            }
            .unwrap();
            let mut restored = BTreeMap::new();
            handle.files().for_each(|f| restored.extend(contents[&f.path].clone()));
            prop_assert_eq!(&restored, &last_write);
            prop_assert!(handle.deltas.len() < MOST_LINKS, "{} files", handle.deltas.len());
            prop_assert!(handle.size() <= 400 + 400 + 200, "{} of 400", handle.size());
            match fate {
                0 => i.aborted(CheckpointId(n.into())),
                1 => {}
                _ => i.completed(CheckpointId(n.into())),
            }
            one_is_complete |= fate > 1;
            before_one_is += u64::from(!one_is_complete);
        }
        // until one is complete each holds everything: there is nothing yet that it could be the changes of
        prop_assert!(uploaded <= 800 + 400 * before_one_is + changed * 12, "{uploaded} for {changed}");
    }
}
