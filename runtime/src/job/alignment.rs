//! Alignment of sources: those of a group wait for the slowest. Shared by the tasks of one process and attempt; what other
//! taskmanagers have reached comes with the jobmanager's heartbeats.
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

/// Event time of the slowest active subtask of each group (ms since the Unix epoch); none where no subtask is active.
pub type Slowest = BTreeMap<String, Option<i64>>;

/// The groups of one attempt.
#[derive(Debug, Clone, Default)]
pub struct AlignmentGroups(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    groups: BTreeMap<String, Group>,
    /// On the other taskmanagers; none until it is known.
    others: Option<Slowest>,
}

#[derive(Debug, Default)]
struct Group {
    /// On the other taskmanagers.
    others: Option<i64>,
    /// Event time of each member; none while it is idle or has ended.
    members: Vec<Option<i64>>,
    waiting: BTreeMap<usize, Waker>,
}

impl Group {
    fn least(&self) -> Option<i64> {
        self.here().into_iter().chain(self.others).min()
    }
    fn here(&self) -> Option<i64> {
        self.members.iter().flatten().min().copied()
    }
}

/// One subtask in its group.
#[derive(Debug)]
pub struct Member {
    groups: AlignmentGroups,
    group: String,
    index: usize,
    drift: i64,
}

impl AlignmentGroups {
    /// The groups of an attempt, which other taskmanagers take part in (`shared`) or do not.
    pub fn new(shared: bool) -> Self {
        let others = (!shared).then(Slowest::new);
        Self(Arc::new(Mutex::new(State { groups: BTreeMap::new(), others })))
    }

    /// How far the subtasks in this process are.
    pub fn slowest(&self) -> Slowest {
        self.lock().groups.iter().map(|(name, g)| (name.clone(), g.here())).collect()
    }

    /// How far those of the other taskmanagers are.
    pub fn set_others(&self, others: Slowest) {
        let mut state = self.lock();
        let mut woken = Vec::new();
        for (name, group) in &mut state.groups {
            let before = group.least();
            group.others = others.get(name).copied().flatten();
            if group.least() != before {
                woken.extend(std::mem::take(&mut group.waiting).into_values());
            }
        }
        state.others = Some(others);
        drop(state);
        woken.into_iter().for_each(Waker::wake);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // nothing that runs under the lock can leave it half done
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a member, which holds the others back until its first watermark.
    pub fn join(&self, group: &str, max_drift: Duration) -> Member {
        let mut state = self.lock();
        // nobody runs ahead before it is known how far the others are
        let others = state.others.as_ref().map_or(Some(i64::MIN), |o| o.get(group).copied().flatten());
        let new = || Group { others, ..Group::default() };
        let members = &mut state.groups.entry(group.to_owned()).or_insert_with(new).members;
        members.push(Some(i64::MIN));
        let drift = i64::try_from(max_drift.as_millis()).unwrap_or(i64::MAX);
        Member { groups: self.clone(), group: group.to_owned(), index: members.len() - 1, drift }
    }
}

impl Member {
    fn update(&self, watermark: Option<i64>) {
        let mut state = self.groups.lock();
        let Some(group) = state.groups.get_mut(&self.group) else { return };
        let before = group.least();
        group.members[self.index] = watermark;
        let woken = if group.least() == before { BTreeMap::new() } else { std::mem::take(&mut group.waiting) };
        drop(state);
        woken.into_values().for_each(Waker::wake);
    }

    /// Event time of this member (ms since the Unix epoch); `i64::MAX` at its end.
    pub fn advance(&self, watermark: i64) {
        self.update((watermark < i64::MAX).then_some(watermark));
    }

    /// Nothing comes from this member for now.
    pub fn idle(&self) {
        self.update(None);
    }

    /// Pending while this member is too far ahead.
    pub fn poll_aligned(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = self.groups.lock();
        let Some(group) = state.groups.get_mut(&self.group) else { return Poll::Ready(()) };
        match (group.members[self.index], group.least()) {
            (Some(mine), Some(least)) if mine > least.saturating_add(self.drift) => {
                group.waiting.insert(self.index, cx.waker().clone());
                Poll::Pending
            }
            _ => Poll::Ready(()),
        }
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.update(None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_ahead_waits_for_the_slowest_that_is_active() {
        let groups = AlignmentGroups::new(false);
        let drift = Duration::from_millis(100);
        let [a, b, other] = [("g", drift), ("g", drift), ("h", drift)].map(|(g, d)| groups.join(g, d));
        let cx = &mut Context::from_waker(Waker::noop());
        assert!(a.poll_aligned(cx).is_ready() && b.poll_aligned(cx).is_ready());
        a.advance(1000);
        assert!(a.poll_aligned(cx).is_pending(), "b has no event time yet");
        b.advance(850);
        assert!(a.poll_aligned(cx).is_pending());
        b.advance(900);
        assert!(a.poll_aligned(cx).is_ready());
        a.advance(2000);
        b.idle();
        assert!(a.poll_aligned(cx).is_ready(), "an idle one holds nobody back");
        b.advance(1000);
        assert!(a.poll_aligned(cx).is_pending());
        b.advance(i64::MAX);
        assert!(a.poll_aligned(cx).is_ready(), "nor does one that has ended");
        b.advance(1000);
        drop(b);
        assert!(a.poll_aligned(cx).is_ready());
        other.advance(i64::MAX - 1);
        assert!(other.poll_aligned(cx).is_ready());
    }

    #[test]
    fn other_taskmanagers_hold_a_member_back_from_the_beginning() {
        let groups = AlignmentGroups::new(true);
        let a = groups.join("g", Duration::from_millis(100));
        let cx = &mut Context::from_waker(Waker::noop());
        a.advance(1000);
        assert!(a.poll_aligned(cx).is_pending(), "nothing is known of the others");
        assert_eq!(groups.slowest(), Slowest::from([("g".into(), Some(1000))]));
        let others = |t| Slowest::from([("g".to_owned(), t)]);
        groups.set_others(others(Some(950)));
        assert!(a.poll_aligned(cx).is_ready());
        a.advance(1100);
        assert!(a.poll_aligned(cx).is_pending());
        groups.set_others(others(None));
        assert!(a.poll_aligned(cx).is_ready(), "they are idle or have ended");
    }
}
