//! Which checkpoints stay: while the job runs, at its end, and what was left over by attempts before. Pure.
//!
//! Nothing that a retained entry or the last claim names is ever given out for deletion; a complete savepoint never is.
#[cfg(test)]
mod tests;

use super::log::LogView;
use std::collections::BTreeSet;
use weir_api::config::Retention;
use weir_api::ids::Attempt;
use weir_api::status::TerminalStatus;

/// [`super::log::Snapshot::retains_from`] of the checkpoint that is about to be appended at `index`: with it, the log keeps
/// the newest `retained` checkpoints (at least one).
pub fn retains_from(view: &LogView, index: u64, retained: u32) -> u64 {
    let before = view.checkpoints();
    let keep = (retained.max(1) as usize - 1).min(before.len());
    before[before.len() - keep..].first().and_then(|c| c.index).unwrap_or(index)
}

/// Directories that the entry at the head dropped, given the log before and after it. Call it once the append is known.
pub fn dropped(before: &LogView, after: &LogView) -> Vec<String> {
    let keep = protected(after);
    before.checkpoints().into_iter().map(|c| c.path).filter(|p| !keep.contains(p)).collect()
}

/// Directories of the checkpoints that must stay. Their manifests name the shared files that must stay; savepoints name
/// none.
pub fn checkpoints_that_stay(view: &LogView) -> BTreeSet<String> {
    let all = view.snapshots().into_iter().chain(view.resumable());
    all.filter(|s| !s.kind.is_savepoint()).map(|s| s.path).collect()
}

/// Of the files that dropped checkpoints name, those that no checkpoint names that stays. Paths.
pub fn unreferenced(dropped: BTreeSet<String>, live: &BTreeSet<String>) -> Vec<String> {
    dropped.into_iter().filter(|f| !live.contains(f)).collect()
}

/// Of the names in the shared folder, those that a checkpoint wrote that will never complete.
pub fn written_for(directory: &str, names: Vec<String>) -> Vec<String> {
    let own = |n: &String| n.strip_prefix(directory).is_some_and(|rest| rest.starts_with('.'));
    names.into_iter().filter(own).collect()
}

/// The name, of a directory or a shared file, is of an attempt before this one.
pub fn is_before(name: &str, current: Attempt) -> bool {
    attempt_of(name).is_some_and(|a| a < current)
}

/// Of the names in the shared folder, those that attempts before `current` wrote and that no checkpoint names that stays.
/// `live`: names. Only for the holder of the claim, after its claim.
pub fn sweep_shared(live: &BTreeSet<&str>, current: Attempt, names: Vec<String>) -> Vec<String> {
    let left = |n: &String| !live.contains(n.as_str()) && is_before(n, current);
    names.into_iter().filter(left).collect()
}

/// Directories that must stay.
fn protected(view: &LogView) -> BTreeSet<String> {
    let claimed = view.resumable().map(|r| r.path);
    view.snapshots().into_iter().map(|s| s.path).chain(claimed).collect()
}

/// Whether checkpoints are kept when the job ends like this. A completed stop keeps the last checkpoint beside its
/// savepoint, unless nothing is ever kept.
pub const fn keeps(policy: Retention, status: TerminalStatus) -> bool {
    use TerminalStatus as S;
    match (policy, status) {
        (Retention::NeverRetain, _) | (_, S::Finished) => false,
        (_, S::Failed | S::Stopped) | (Retention::RetainOnCancellation, S::Canceled) => true,
        (Retention::DeleteOnCancellation, S::Canceled) => false,
    }
}

/// What the job's end keeps and deletes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AtEnd {
    /// For [`super::log::Terminal::kept`]: directories of checkpoints and of savepoints that the log names.
    pub kept: Vec<String>,
    /// To delete once the terminal entry is in the log.
    pub delete: Vec<String>,
}

/// Call it before the terminal entry is appended.
pub fn at_end(view: &LogView, policy: Retention, status: TerminalStatus) -> AtEnd {
    let mut end = AtEnd::default();
    let keep = keeps(policy, status);
    for s in view.snapshots() {
        let to = if keep || s.kind.is_savepoint() { &mut end.kept } else { &mut end.delete };
        to.push(s.path);
    }
    // a restored snapshot that the log does not name is its owner's
    if let Some(r) = view.resumable()
        && !end.kept.contains(&r.path)
        && !end.delete.contains(&r.path)
    {
        end.kept.push(r.path);
    }
    end
}

/// Checkpoint directories that the terminal entry at the head dropped and that are still there: whoever wrote it was killed before
/// it had deleted them. `directories`: names of the folders in the job's root.
pub fn left_at_end(view: &LogView, directories: &[String]) -> Vec<String> {
    let Some((_, _, terminal)) = view.terminal() else { return Vec::new() };
    let keep = protected(view);
    let all = view.entries().iter().filter_map(|(i, e)| e.snapshot_ref(*i)).filter(|s| !s.kind.is_savepoint());
    let left = |p: &String| !keep.contains(p) && !terminal.kept.contains(p) && directories.contains(p);
    all.map(|s| s.path).filter(left).collect()
}

/// Attempt in the name of a checkpoint's directory (`chk-<id>-<attempt>-<nonce>`), or of a shared file that begins so.
fn attempt_of(directory: &str) -> Option<Attempt> {
    numbers(directory.strip_prefix("chk-")?)
}

/// Attempt in `<id>-<attempt>-...`.
fn numbers(name: &str) -> Option<Attempt> {
    let mut parts = name.split('-');
    let (_id, attempt) = (parts.next()?.parse::<u64>().ok()?, parts.next()?.parse().ok()?);
    Some(Attempt(attempt))
}

/// Checkpoint directories that attempts before `current` left behind: aborted ones, orphans of a crash, ones that a log
/// entry dropped and nobody deleted. Only for the holder of the claim, after its claim. `directories`: names of the folders
/// in the job's root.
pub fn sweep(view: &LogView, current: Attempt, directories: &[String]) -> Vec<String> {
    let keep = protected(view);
    let left = |d: &&String| !keep.contains(*d) && is_before(d, current);
    directories.iter().filter(left).cloned().collect()
}

/// Savepoint directories (`savepoint-<id>-<attempt>-<nonce>`) of attempts before `current` that the log does not name: those of
/// them that hold no manifest were aborted and are nobody's. The same rules as for [`sweep`].
pub fn unnamed_savepoints(view: &LogView, current: Attempt, directories: &[String]) -> Vec<String> {
    let keep = protected(view);
    let older = |name: &str| name.matches('-').count() == 2 && numbers(name).is_some_and(|a| a < current);
    let left = |d: &&String| !keep.contains(*d) && d.strip_prefix("savepoint-").is_some_and(older);
    directories.iter().filter(left).cloned().collect()
}
