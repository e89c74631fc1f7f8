//! The registered taskmanagers: who is there, who was heard of last when, on whom tasks of an attempt may still run. Pure.
use crate::control::{Heartbeat, Hello};
use crate::job::alignment::Slowest;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use weir_api::ids::Attempt;

/// A control connection; never reused within a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId(pub u64);

/// One registered taskmanager.
#[derive(Debug, Clone)]
pub struct TaskManager {
    pub hello: Hello,
    pub registered: Duration,
    pub last_heard: Duration,
    pub heartbeat: Heartbeat,
    /// The attempt whose tasks may still run on it.
    pub holds: Option<Attempt>,
    /// It said that it is about to end: gets no more tasks.
    pub leaving: bool,
}

/// All registered taskmanagers, by connection.
#[derive(Debug, Default)]
pub struct Registry {
    members: BTreeMap<ConnectionId, TaskManager>,
}

impl Registry {
    /// Adds a taskmanager. Another connection of the same id is superseded and returned: its process is gone, or gave the
    /// connection up.
    pub fn add(&mut self, connection: ConnectionId, hello: Hello, now: Duration) -> Option<ConnectionId> {
        let old = self.members.iter().find(|(_, t)| t.hello.id == hello.id).map(|(c, _)| *c);
        let t = TaskManager {
            hello,
            registered: now,
            last_heard: now,
            heartbeat: Heartbeat::default(),
            holds: None,
            leaving: false,
        };
        self.members.insert(connection, t);
        old
    }

    pub fn remove(&mut self, connection: ConnectionId) -> Option<TaskManager> {
        self.members.remove(&connection)
    }

    pub fn get(&self, connection: ConnectionId) -> Option<&TaskManager> {
        self.members.get(&connection)
    }

    /// Notes that something arrived; none when the connection is not registered.
    pub fn heard(&mut self, connection: ConnectionId, now: Duration) -> Option<&mut TaskManager> {
        let t = self.members.get_mut(&connection)?;
        t.last_heard = now;
        Some(t)
    }

    /// Notes that tasks of the attempt are deployed on it.
    pub fn deployed(&mut self, connection: ConnectionId, attempt: Attempt) {
        if let Some(t) = self.members.get_mut(&connection) {
            t.holds = Some(attempt);
        }
    }

    /// The taskmanager says that nothing of this attempt runs any more.
    pub fn gone(&mut self, connection: ConnectionId, attempt: Attempt) {
        if let Some(t) = self.members.get_mut(&connection)
            && t.holds.is_some_and(|h| h <= attempt)
        {
            t.holds = None;
        }
    }

    /// For each taskmanager of the attempt, how far the sources of each alignment group are on the others; nothing while one
    /// of them has not told, or where there is nothing to align.
    pub fn alignment(&self, attempt: Attempt) -> Vec<(ConnectionId, Slowest)> {
        let parts = || self.members.iter().filter(|(_, t)| t.holds == Some(attempt));
        if parts().count() < 2 || parts().any(|(_, t)| t.heartbeat.attempt != attempt) {
            return Vec::new();
        }
        let groups: BTreeSet<&String> = parts().flat_map(|(_, t)| t.heartbeat.alignment.keys()).collect();
        if groups.is_empty() {
            return Vec::new();
        }
        let least = |me: ConnectionId, group: &String| {
            parts().filter(|(c, _)| **c != me).filter_map(|(_, t)| *t.heartbeat.alignment.get(group)?).min()
        };
        parts().map(|(c, _)| (*c, groups.iter().map(|g| ((*g).clone(), least(*c, g))).collect())).collect()
    }

    /// Those on which tasks of any attempt may still run.
    pub fn holding(&self) -> impl Iterator<Item = (ConnectionId, Attempt)> {
        self.members.iter().filter_map(|(c, t)| t.holds.map(|a| (*c, a)))
    }

    /// Those not heard of for longer than `timeout`.
    pub fn silent(&self, now: Duration, timeout: Duration) -> Vec<ConnectionId> {
        let silent = |t: &TaskManager| now.saturating_sub(t.last_heard) > timeout;
        self.members.iter().filter(|(_, t)| silent(t)).map(|(c, _)| *c).collect()
    }

    /// By id, so that placements do not depend on the order of arrival.
    pub fn by_id(&self) -> Vec<(ConnectionId, &TaskManager)> {
        let mut all: Vec<_> = self.members.iter().map(|(c, t)| (*c, t)).collect();
        all.sort_by(|a, b| a.1.hello.id.cmp(&b.1.hello.id));
        all
    }

    /// The highest attempt that one of them has followed under an earlier jobmanager.
    pub fn highest_followed(&self) -> Attempt {
        self.members.values().map(|t| t.hello.highest).max().unwrap_or_default()
    }

    pub fn connections(&self) -> impl Iterator<Item = ConnectionId> {
        self.members.keys().copied()
    }

    pub fn len(&self) -> usize {
        self.members.len()
    }

    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// Slots of all that are not about to end.
    pub fn slots(&self) -> u32 {
        self.members.values().filter(|t| !t.leaving).fold(0, |sum, t| sum.saturating_add(t.hello.slots))
    }

    pub fn leaving(&mut self, connection: ConnectionId) {
        if let Some(t) = self.members.get_mut(&connection) {
            t.leaving = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hello(id: &str, slots: u32) -> Hello {
        Hello { id: id.into(), slots, data_address: "h:1".into(), fingerprint: "f".into(), pid: 1, highest: Attempt(0) }
    }
    const A: ConnectionId = ConnectionId(1);
    const B: ConnectionId = ConnectionId(2);

    #[test]
    fn a_new_connection_of_the_same_id_supersedes_the_old_one() {
        let (mut r, now) = (Registry::default(), Duration::from_secs(1000));
        assert_eq!(r.add(A, hello("tm", 1), now), None);
        assert_eq!(r.add(B, hello("tm", 1), now), Some(A));
    }

    #[test]
    fn silence_is_counted_from_the_last_sign_of_life() {
        let (mut r, t) = (Registry::default(), Duration::from_secs(1000));
        r.add(A, hello("a", 1), t);
        r.add(B, hello("b", 1), t);
        r.heard(B, t + Duration::from_secs(2));
        assert_eq!(r.silent(t + Duration::from_secs(4), Duration::from_secs(3)), [A]);
        assert!(r.heard(ConnectionId(9), t).is_none());
    }

    #[test]
    fn a_late_word_about_an_old_attempt_does_not_free_the_new_one() {
        let (mut r, t) = (Registry::default(), Duration::from_secs(1000));
        r.add(A, hello("a", 2), t);
        r.deployed(A, Attempt(3));
        r.gone(A, Attempt(2));
        assert_eq!(r.holding().collect::<Vec<_>>(), [(A, Attempt(3))]);
        r.gone(A, Attempt(3));
        assert_eq!(r.holding().count(), 0);
        r.leaving(A);
        assert_eq!(r.slots(), 0);
    }

    #[test]
    fn each_taskmanager_hears_how_far_the_sources_of_the_others_are_once_all_have_told() {
        let (mut r, t) = (Registry::default(), Duration::from_secs(1000));
        let c = ConnectionId(3);
        for (connection, id) in [(A, "a"), (B, "b"), (c, "unused")] {
            r.add(connection, hello(id, 1), t);
        }
        r.deployed(A, Attempt(3));
        r.deployed(B, Attempt(3));
        let tell = |r: &mut Registry, c, attempt, group: &str, time| {
            let alignment = Slowest::from([(group.to_owned(), time)]);
            r.heard(c, t).unwrap().heartbeat = Heartbeat { attempt: Attempt(attempt), alignment, ..Default::default() };
        };
        tell(&mut r, A, 3, "g", Some(10));
        tell(&mut r, B, 2, "g", Some(5));
        assert!(r.alignment(Attempt(3)).is_empty(), "what it said is about an earlier attempt");
        tell(&mut r, B, 3, "g", Some(7));
        let others = |time| Slowest::from([("g".to_owned(), time)]);
        assert_eq!(r.alignment(Attempt(3)), [(A, others(Some(7))), (B, others(Some(10)))]);
        tell(&mut r, B, 3, "g", None);
        assert_eq!(r.alignment(Attempt(3))[0], (A, others(None)), "idle, or at its end");
    }
}
