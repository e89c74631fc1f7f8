//! Whether a snapshot fits a job: names, kinds and types of states, key groups. Runs before anything is changed.
use crate::checkpoint::handles::{PENDING, SPLITS, StateDescriptor};
use crate::checkpoint::manifest::{JobSpec, Manifest, OperatorManifest, OperatorSpec};
use crate::data::{HASH_VERSION, Type};
use crate::error::{Error, ErrorCode, Result};
use std::collections::BTreeSet;

/// The snapshot fits.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Compatible {
    /// State that the restore leaves behind, each as people name it. Empty unless it was allowed.
    pub dropped: Vec<String>,
    /// Operators of the job that the snapshot does not know: they start empty.
    pub new_operators: Vec<String>,
}

impl Compatible {
    /// For the preflight's message.
    pub fn notes(&self) -> String {
        let mut notes = String::new();
        if !self.dropped.is_empty() {
            notes.push_str(&format!("; drops {}, as allowNonRestoredState says", self.dropped.join(", ")));
        }
        if !self.new_operators.is_empty() {
            notes.push_str(&format!(
                "; {} start{} empty",
                self.new_operators.join(", "),
                if self.new_operators.len() == 1 { "s" } else { "" }
            ));
        }
        notes
    }
}

/// Compares a snapshot with the job. The error has every mismatch, one a line.
pub fn check(m: &Manifest, spec: &JobSpec, allow_non_restored_state: bool) -> Result<Compatible> {
    let mut wrong = Vec::new();
    let mut ok = Compatible::default();
    if m.hash_version != HASH_VERSION {
        wrong.push(format!(
            "its key groups are of hash version {}, this Weir has version {HASH_VERSION}",
            m.hash_version
        ));
    }
    if m.max_parallelism != spec.max_parallelism {
        wrong.push(format!(
            "its maxParallelism is {}, the job's is {}: maxParallelism is fixed for the job's life, set it to {}",
            m.max_parallelism, spec.max_parallelism, m.max_parallelism
        ));
    }
    for old in &m.operators {
        match spec.operators.iter().find(|o| o.name == old.name) {
            Some(new) => compare(old, new, &mut wrong, &mut ok.dropped),
            None if old.holds_state() => ok.dropped.push(format!("operator {:?}{}", old.name, likely(spec, m))),
            None => {}
        }
    }
    let is_new =
        |o: &&OperatorSpec| (!o.states.is_empty() || o.has_lists) && !m.operators.iter().any(|old| old.name == o.name);
    ok.new_operators = spec.operators.iter().filter(is_new).map(|o| format!("operator {:?}", o.name)).collect();
    if !allow_non_restored_state {
        let missing = ok.dropped.iter().map(|d| {
            format!("it holds state of {d}, which the job does not have: give the job that name, or set allowNonRestoredState to drop it")
        });
        wrong.extend(missing);
    }
    if wrong.is_empty() {
        return Ok(ok);
    }
    let of = if m.job == spec.job { String::new() } else { format!(" of the job {}", m.job) };
    let kind = if m.kind.is_savepoint() { "savepoint" } else { "checkpoint" };
    let message = format!(
        "{kind} {} ({}){of} does not fit this job; nothing was changed:\n  {}",
        m.id,
        m.directory,
        wrong.join("\n  ")
    );
    Err(Error::user(ErrorCode::Incompatible, message))
}

/// Names the job's own stateful operators that the snapshot does not have: one of them may be a renamed one.
fn likely(spec: &JobSpec, m: &Manifest) -> String {
    let known: BTreeSet<&str> = m.operators.iter().map(|o| o.name.as_str()).collect();
    let fresh: Vec<String> = spec
        .operators
        .iter()
        .filter(|o| !known.contains(o.name.as_str()) && (o.has_lists || !o.states.is_empty()))
        .map(|o| format!("{:?}", o.name))
        .collect();
    if fresh.is_empty() { String::new() } else { format!(" (new in the job: {})", fresh.join(", ")) }
}

fn compare(old: &OperatorManifest, new: &OperatorSpec, wrong: &mut Vec<String>, dropped: &mut Vec<String>) {
    let op = &old.name;
    if old.kind != new.kind && (holds(old, SPLITS) || holds(old, PENDING)) {
        wrong.push(format!("operator {op:?} is a {} in it and a {} in the job", word(old.kind), word(new.kind)));
        return;
    }
    let used = old.entries() > 0;
    for was in &old.states {
        match new.states.iter().find(|s| s.name == was.name) {
            Some(is) => compare_state(op, was, is, wrong),
            None if used => dropped.push(format!("state {:?} of operator {op:?}", was.name)),
            None => {}
        }
    }
    if !new.has_lists && old.holds_lists() {
        dropped.push(format!("list state of operator {op:?}"));
    }
}

fn holds(o: &OperatorManifest, list: &str) -> bool {
    o.subtasks.iter().any(|s| s.lists.get(list).is_some_and(|l| !l.is_empty()))
}

fn word(kind: crate::checkpoint::manifest::OperatorKind) -> &'static str {
    use crate::checkpoint::manifest::OperatorKind as K;
    match kind {
        K::Source => "source",
        K::Operator => "operator",
        K::Sink => "sink",
    }
}

fn compare_state(op: &str, was: &StateDescriptor, is: &StateDescriptor, wrong: &mut Vec<String>) {
    let state = &was.name;
    if was.kind != is.kind {
        wrong.push(format!(
            "state {state:?} of operator {op:?} is a {:?} state in it and a {:?} state in the job",
            was.kind, is.kind
        ));
        return;
    }
    for (what, a, b) in [("key", &was.key, &is.key), ("value", &was.value, &is.value)] {
        if a != b {
            let at = difference(a, b).map_or_else(String::new, |d| format!(" ({d})"));
            wrong.push(format!("state {state:?} of operator {op:?}: its {what} type is `{a}`, the job's is `{b}`{at}"));
        }
    }
}

/// The first place where two types differ, when it is inside of them.
fn difference(a: &Type, b: &Type) -> Option<String> {
    let fields = |x: &Type| match x {
        Type::Struct { fields, .. } => Some(fields.clone()),
        _ => None,
    };
    let (old, new) = (fields(a)?, fields(b)?);
    for f in &old {
        match new.iter().find(|g| g.name == f.name) {
            None => return Some(format!("field {} is gone", f.name)),
            Some(g) if g.ty != f.ty => return Some(format!("field {}: {} and {}", f.name, f.ty, g.ty)),
            Some(_) => {}
        }
    }
    match new.iter().find(|g| !old.iter().any(|f| f.name == g.name)) {
        Some(g) => Some(format!("field {} is new", g.name)),
        None if old.len() == new.len() && old != new => Some("the fields have another order".into()),
        None => None,
    }
}
