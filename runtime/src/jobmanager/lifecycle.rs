//! The life cycle of the job: its states and the transitions between them. Pure.
use std::collections::BTreeMap;
use weir_api::rest::Millis;
use weir_api::status::JobState;

/// A transition that the life cycle does not have: a fault of the caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the job cannot go from {from} to {to}")]
pub struct IllegalTransition {
    pub from: JobState,
    pub to: JobState,
}

/// Current state, and when each state was entered last.
#[derive(Debug, Clone)]
pub struct Lifecycle {
    state: JobState,
    entered: BTreeMap<&'static str, Millis>,
}

/// Whether the job may go from one state to the other in one step.
pub const fn is_legal(from: JobState, to: JobState) -> bool {
    use JobState::*;
    match from {
        // Finished: what is left of a stop whose jobmanager was lost is only to be recorded
        Created => matches!(to, Running | Restarting | Cancelling | Failing | Finished | Suspended),
        Running => matches!(to, Restarting | Cancelling | Failing | Finished | Suspended),
        // Finished: a stop whose savepoint was complete before the failure
        Restarting => matches!(to, Running | Cancelling | Failing | Finished | Suspended),
        Cancelling => matches!(to, Canceled | Suspended),
        Failing => matches!(to, Failed | Suspended),
        Suspended | Failed | Canceled | Finished => false,
    }
}

impl Lifecycle {
    pub fn new(now: Millis) -> Self {
        let state = JobState::Created;
        Self { state, entered: BTreeMap::from([(state.as_str(), now)]) }
    }

    /// A job that had come to its end before this process started.
    pub fn already(state: JobState, at: Millis) -> Self {
        Self { state, entered: BTreeMap::from([(state.as_str(), at)]) }
    }

    pub fn state(&self) -> JobState {
        self.state
    }

    /// Goes to `to`; going to the current state changes nothing.
    pub fn go(&mut self, to: JobState, now: Millis) -> Result<(), IllegalTransition> {
        if self.state == to {
            return Ok(());
        }
        if !is_legal(self.state, to) {
            return Err(IllegalTransition { from: self.state, to });
        }
        self.state = to;
        self.entered.insert(to.as_str(), now);
        Ok(())
    }

    /// When the state was entered last; 0 as in Flink when it never was.
    pub fn entered(&self, state: JobState) -> Millis {
        self.entered.get(state.as_str()).copied().unwrap_or(0)
    }

    /// When the job reached its end; -1 while it has none.
    pub fn ended(&self) -> Millis {
        if self.state.is_terminal() || self.state == JobState::Suspended { self.entered(self.state) } else { -1 }
    }

    /// When the current state was entered.
    pub fn since(&self) -> Millis {
        self.entered(self.state)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use JobState::*;
    const ALL: [JobState; 9] =
        [Created, Running, Restarting, Suspended, Failing, Failed, Cancelling, Canceled, Finished];

    #[test]
    fn nothing_leaves_an_end_and_every_end_can_be_reached() {
        for end in [Failed, Canceled, Finished, Suspended] {
            assert!(ALL.iter().all(|&to| !is_legal(end, to)), "{end}");
            let mut reached = vec![Created];
            loop {
                let more: Vec<_> = ALL
                    .into_iter()
                    .filter(|s| !reached.contains(s) && reached.iter().any(|&r| is_legal(r, *s)))
                    .collect();
                if more.is_empty() {
                    break;
                }
                reached.extend(more);
            }
            assert!(reached.contains(&end), "{end}");
        }
    }

    #[test]
    fn a_cancelled_job_neither_restarts_nor_fails() {
        let mut l = Lifecycle::new(1);
        l.go(Running, 2).unwrap();
        l.go(Cancelling, 3).unwrap();
        for to in [Running, Restarting, Failing, Failed, Finished] {
            assert_eq!(l.go(to, 4), Err(IllegalTransition { from: Cancelling, to }));
        }
        l.go(Canceled, 5).unwrap();
        assert_eq!((l.ended(), l.entered(Running), l.entered(Finished)), (5, 2, 0));
    }
}
