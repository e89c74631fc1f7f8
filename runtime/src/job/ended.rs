//! Of which inputs an operator was told the end: once each, over restores, too.
use crate::checkpoint::handles::{Bytes64, ENDED, OperatorRestore};
use std::collections::BTreeMap;

/// The only input, or the first of two.
pub(super) const FIRST: u8 = 1;
pub(super) const SECOND: u8 = 2;
/// Both of two.
pub(super) const BOTH: u8 = 4;

/// Whom an end was told to already, this attempt or before the snapshot that it began with.
///
/// A source that had ended says so again after a restore, and every stage passes that on; a function that was told before the
/// snapshot has emitted then what it had to. It hears of it again only if records have come since: a drained job may go on.
#[derive(Debug, Default)]
pub(super) struct Ended(u8);

impl Ended {
    /// What the snapshot says. `told_once`: the operator is one that remembers it.
    pub fn restored(told_once: bool, restore: Option<&OperatorRestore>) -> Self {
        let element = restore.filter(|_| told_once).and_then(|r| r.lists.get(ENDED)?.first()?.0.first());
        Self(element.copied().unwrap_or(0))
    }

    /// Records have come from this input.
    #[inline]
    pub fn records(&mut self, input: u8) {
        self.0 &= !(input | BOTH);
    }

    /// True if the operator is to be told now.
    pub fn tell(&mut self, told_once: bool, input: u8) -> bool {
        let told = told_once && self.0 & input != 0;
        self.0 |= input;
        !told
    }

    /// Adds what must be remembered, if there is any.
    pub fn snapshot(&self, told_once: bool, lists: &mut BTreeMap<String, Vec<Bytes64>>) {
        if told_once && self.0 != 0 {
            lists.insert(ENDED.into(), vec![Bytes64(vec![self.0])]);
        }
    }
}

#[cfg(test)]
mod tests;
