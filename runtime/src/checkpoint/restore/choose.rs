//! What a jobmanager does with the log that it finds: start, resume, report the end, or stand back (`protocols.md` §5).
use crate::checkpoint::log::entry::MAX_SUPERSEDED;
use crate::checkpoint::log::{Claim, LogView, Nonce, SnapshotRef, Terminal};
use crate::checkpoint::manifest::{JobSpec, Manifest};
use weir_api::config::RestoreConfig;
use weir_api::ids::{Attempt, CheckpointId, Deployment};
use weir_api::status::TerminalStatus;

/// Who asks, and what for.
#[derive(Debug, Clone)]
pub struct Request<'a> {
    /// Absent: started by hand.
    pub deployment: Option<&'a Deployment>,
    pub restore: &'a RestoreConfig,
    /// [`RestoreConfig::from`] as [`crate::checkpoint::storage::Storage::normalize`] gives it, if it is a path.
    pub from_path: Option<String>,
    /// How the log names it, if it does so otherwise.
    pub logged_path: Option<String>,
    /// Start new although there are checkpoints.
    pub stateless: bool,
    /// The log entry that `latest` must be.
    pub expect_log_index: Option<u64>,
    /// Attempt and nonce of the claim that this process held: a restart within the process.
    pub held: Option<(Attempt, Nonce)>,
    /// Parallelism in this process's configuration.
    pub parallelism: u32,
}

impl<'a> Request<'a> {
    pub fn new(restore: &'a RestoreConfig, parallelism: u32) -> Self {
        Self {
            deployment: None,
            restore,
            from_path: None,
            logged_path: None,
            stateless: false,
            expect_log_index: None,
            held: None,
            parallelism,
        }
    }
}

#[derive(Debug, Clone, PartialEq)]
pub enum Decision {
    /// Compare, claim, run.
    Start(Box<Start>),
    /// This deployment's job has ended: report it, run nothing.
    Ended { index: u64, at: i64, terminal: Terminal },
    /// A later deployment or another process has the log: stop, change nothing.
    Fenced(String),
    /// Change nothing, and say why.
    Refused(Refusal),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    pub message: String,
    /// [`Request::expect_log_index`] does not hold (409), rather than a request that cannot be met.
    pub conflict: bool,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Start {
    /// None: the job starts new.
    pub from: Option<From>,
    /// What it starts from and why, in a sentence.
    pub message: String,
    /// The same deployment or process goes on.
    pub resumes: bool,
    /// Only commit what this stop savepoint left pending and record the end (the jobmanager was lost in between).
    pub finishes_stop: bool,
    /// The job's parallelism: the configured one, or the one of a rescale that the same configuration has seen since.
    pub parallelism: u32,
    /// The restore section to remember in the claim.
    restore_nonce: Option<i64>,
    restore_from: Option<String>,
}

/// The snapshot to restore.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum From {
    /// As the log has it.
    Log(SnapshotRef),
    /// A directory or URL that the log does not know (any more); the manifest says the rest.
    Path(String),
}

impl From {
    /// Directory of the manifest.
    pub fn path(&self) -> &str {
        match self {
            Self::Log(s) => &s.path,
            Self::Path(p) => p,
        }
    }
    /// With what the manifest says, where the log does not.
    pub fn snapshot(&self, manifest: &Manifest) -> SnapshotRef {
        match self {
            Self::Log(s) => s.clone(),
            Self::Path(path) => SnapshotRef {
                index: None,
                id: manifest.id,
                path: path.clone(),
                kind: manifest.kind,
                size_bytes: manifest.size_bytes(),
                duration_ms: 0,
                completed_at: manifest.created_at,
            },
        }
    }
}

impl Start {
    /// The claim to append behind `view`. `restores`: [`From::snapshot`] of [`Start::from`].
    pub fn claim(
        &self,
        view: &LogView,
        request: &Request<'_>,
        spec: &JobSpec,
        restores: Option<SnapshotRef>,
        next: CheckpointId,
    ) -> Claim {
        let last = view.last_claim().map(|c| c.2);
        let mut superseded = last.map(|c| c.superseded.clone()).unwrap_or_default();
        if let (Some(before), Some(me)) = (last.and_then(|c| c.deployment.as_ref()), request.deployment)
            && before.uid != me.uid
        {
            superseded.retain(|u| *u != before.uid);
            superseded.push(before.uid.clone());
            superseded.drain(..superseded.len().saturating_sub(MAX_SUPERSEDED));
        }
        let after = restores.as_ref().map_or(CheckpointId(1), |r| CheckpointId(r.id.0 + 1));
        Claim {
            fingerprint: spec.fingerprint.clone(),
            restores,
            deployment: request.deployment.cloned(),
            superseded,
            parallelism: spec.parallelism,
            configured_parallelism: request.parallelism,
            max_parallelism: spec.max_parallelism,
            restore_nonce: self.restore_nonce,
            restore_from: self.restore_from.clone(),
            next_checkpoint: next.max(after).max(view.next_checkpoint()),
            finishes_stop: self.finishes_stop,
        }
    }
}

/// Decides from the log alone.
pub fn choose(view: &LogView, request: &Request<'_>) -> Decision {
    let last = view.last_claim();
    if let Some(fenced) = fenced(view, request) {
        return Decision::Fenced(fenced);
    }
    // whoever has claimed the log of a job that runs would otherwise start it from nothing, and sweep what it has
    if let (Some((attempt, _)), true) = (request.held, view.is_empty()) {
        return refused(
            format!(
                "the job's log is gone: attempt {attempt} of this jobmanager had claimed it, and now its folder is empty or not there. \
                 Nothing was started or deleted: bring the folder `log` back (is the volume still mounted?) and start the jobmanager \
                 again; without it a new jobmanager starts the job from nothing"
            ),
            false,
        );
    }
    let same_process = request.held.is_some();
    let same_deployment =
        last.is_some_and(|(_, _, c)| request.deployment.is_some() && c.deployment.as_ref() == request.deployment);
    if same_process || same_deployment {
        if let Some((index, e, terminal)) = view.terminal() {
            return Decision::Ended { index, at: e.at, terminal: terminal.clone() };
        }
        return Decision::Start(Box::new(resume(view, request)));
    }
    // its end may have come after the operator's last look, and it may be replaced in all ways: it is done, and its output is
    // not written a second time
    if let Some(me) = request.deployment
        && let Some((index, e, terminal)) = view.terminal()
        && terminal.status == TerminalStatus::Finished
        && let Some(before) = last.and_then(|(_, _, c)| c.deployment.as_ref())
        && before.uid == me.uid
        && (me.restart_nonce.is_none() || me.restart_nonce == before.restart_nonce)
    {
        return Decision::Ended { index, at: e.at, terminal: terminal.clone() };
    }
    let latest = view.latest();
    if let Some(expected) = request.expect_log_index
        && latest.as_ref().and_then(|l| l.index) != Some(expected)
    {
        let is = latest.as_ref().map_or("nothing to restore".into(), |l| match l.index {
            Some(i) => format!("{l} at log entry {i}"),
            None => l.to_string(),
        });
        return refused(
            format!("the log's latest snapshot should be entry {expected} and is {is}: the job went on in between"),
            true,
        );
    }
    if request.stateless {
        let past = match &latest {
            Some(l) => format!("starts new because a stateless start was asked for; the state of {l} is not used"),
            None => "starts new: a stateless start was asked for".into(),
        };
        return start(view, request, None, past);
    }
    // whoever looks after a jobmanager starts it again with the same words, also when it had just finished the job: its
    // output is not written a second time
    if request.deployment.is_none()
        && request.from_path.is_none()
        && request.restore.from.is_some()
        && let Some((index, e, terminal)) = view.terminal()
        && terminal.status == TerminalStatus::Finished
    {
        return Decision::Ended { index, at: e.at, terminal: terminal.clone() };
    }
    match &request.from_path {
        Some(path) => from_path(view, request, latest, path),
        None if request.restore.from.is_none() && request.deployment.is_none() => {
            by_hand_without_restore(view, request, latest)
        }
        None => from_latest(view, request, latest, "restores the latest"),
    }
}

fn refused(message: String, conflict: bool) -> Decision {
    Decision::Refused(Refusal { message, conflict })
}

/// Who may not touch the log.
fn fenced(view: &LogView, request: &Request<'_>) -> Option<String> {
    let (_, entry, claim) = view.last_claim()?;
    if let Some(held) = request.held {
        let taken = (entry.attempt, entry.nonce) != held;
        return taken.then(|| {
            format!("attempt {} of another jobmanager holds the log; this one had attempt {}", entry.attempt, held.0)
        });
    }
    let me = request.deployment?;
    if claim.superseded.contains(&me.uid) {
        return Some(format!(
            "a later deployment of the job holds the log (attempt {}); this one (uid {}) was superseded",
            entry.attempt, me.uid
        ));
    }
    let holder = claim.deployment.as_ref().filter(|d| d.uid == me.uid && d.generation > me.generation)?;
    Some(format!(
        "generation {} of the job holds the log (attempt {}); this is generation {}",
        holder.generation, entry.attempt, me.generation
    ))
}

/// The last claim's restore section, to hand on.
fn handed_on(view: &LogView) -> (Option<i64>, Option<String>) {
    view.last_claim().map_or((None, None), |(_, _, c)| (c.restore_nonce, c.restore_from.clone()))
}

fn start(view: &LogView, request: &Request<'_>, from: Option<From>, message: String) -> Decision {
    // a new deployment carries out its restore section, whichever way: it is not carried out a second time
    let (nonce, path) = match (&request.from_path, request.deployment) {
        (Some(p), _) => (request.restore.nonce, Some(p.clone())),
        (None, Some(_)) => (request.restore.nonce, None),
        (None, None) => handed_on(view),
    };
    Decision::Start(Box::new(Start {
        from,
        message,
        resumes: false,
        finishes_stop: false,
        parallelism: request.parallelism,
        restore_nonce: nonce,
        restore_from: path,
    }))
}

fn resume(view: &LogView, request: &Request<'_>) -> Start {
    let from = view.resumable();
    let finishes_stop = view.unfinished_stop().is_some();
    let message = match &from {
        Some(s) if finishes_stop => format!("finishes the stop: commits what {s} left pending"),
        Some(s) => format!("resumes from {s}"),
        None => "starts again: no checkpoint was completed yet".into(),
    };
    let claim = view.last_claim().map(|c| c.2);
    // a rescale by REST outlives a restart for as long as the configuration stays the same
    let rescaled = claim.filter(|c| c.configured_parallelism == request.parallelism).map(|c| c.parallelism);
    let (restore_nonce, restore_from) = handed_on(view);
    Start {
        from: from.map(From::Log),
        message,
        resumes: true,
        finishes_stop,
        parallelism: rescaled.unwrap_or(request.parallelism),
        restore_nonce,
        restore_from,
    }
}

fn from_latest(view: &LogView, request: &Request<'_>, latest: Option<SnapshotRef>, why: &str) -> Decision {
    match latest {
        Some(l) => {
            let message = format!("{why}: {l}");
            start(view, request, Some(From::Log(l)), message)
        }
        None => {
            let why = match view.terminal() {
                Some((_, _, t)) => format!("the job had ended ({:?}) and its checkpoints were not kept", t.status),
                None => "no checkpoint was completed before".into(),
            };
            start(view, request, None, format!("starts new: {why}"))
        }
    }
}

fn by_hand_without_restore(view: &LogView, request: &Request<'_>, latest: Option<SnapshotRef>) -> Decision {
    let Some(l) = latest else {
        let finished = view.terminal().is_some_and(|t| t.2.status == TerminalStatus::Finished);
        if finished {
            let m = "the job has finished with this checkpoint folder, and running it again would write its output a second time: \
                     give another folder with `--checkpoints`, or remove this one";
            return refused(m.to_owned(), false);
        }
        return from_latest(view, request, None, "");
    };
    refused(
        format!(
            "the checkpoint folder already holds {l} of this job, and starting new would lose it: add `--restore latest` to go on \
             from it, `--restore PATH` to start from another snapshot, or give another folder with `--checkpoints`"
        ),
        false,
    )
}

fn from_path(view: &LogView, request: &Request<'_>, latest: Option<SnapshotRef>, path: &str) -> Decision {
    let asked = request.restore;
    let is_it = |s: &SnapshotRef| s.path == path || request.logged_path.as_deref() == Some(&*s.path);
    let known = view.snapshots().into_iter().find(is_it);
    let chosen = || known.clone().map_or_else(|| From::Path(path.to_owned()), From::Log);
    if let Some(l) = latest.as_ref().filter(|l| is_it(l)) {
        return start(view, request, Some(From::Log(l.clone())), format!("restores {l}, the latest"));
    }
    let claim = view.last_claim().map(|c| c.2);
    // the section is still in the resource although it was carried out by an earlier deployment
    let done = claim.is_some_and(|c| c.restore_nonce == asked.nonce && c.restore_from.as_deref() == Some(path));
    if done && request.deployment.is_some() && latest.is_some() {
        return from_latest(
            view,
            request,
            latest,
            &format!("restore.from {path} was carried out before; restores the latest"),
        );
    }
    let new_nonce = asked.nonce.is_some() && claim.is_none_or(|c| c.restore_nonce != asked.nonce);
    // a savepoint taken after the last commit goes forward: nothing behind it was committed
    let forward = view.goes_forward(path, known.as_ref());
    if forward || new_nonce {
        let back = if forward { "" } else { ", going back behind what was committed, as the new restore nonce asks" };
        return start(view, request, Some(chosen()), format!("restores {path}{back}"));
    }
    let l = view.last_committed().map_or_else(String::new, |l| l.to_string());
    refused(
        format!(
            "restoring {path} would go back behind {l}, and what was written after it is already committed (it would be written \
             twice): restore `latest`, or, to go back all the same, set restore.nonce to a new number"
        ),
        false,
    )
}
