//! Operator list state: elements that belong to a subtask, not to a key, and are dealt out anew at another parallelism.
use crate::checkpoint::handles::{Bytes64, OperatorRestore, UNION};
use crate::data::{Data, DecodeError};
use crate::error::{Error, ErrorCode, Result};
use std::collections::BTreeMap;

/// Beginning of the names of split lists in snapshots.
const SPLIT: &str = "weir.list.";

/// A list as a field of a function, which names it in its `list_states`.
///
/// A *split* list holds a subtask's own elements; at another parallelism the elements of all are dealt out in turn. Of a
/// *union* list every subtask gets all elements of all subtasks after a restore, and takes from them what it wants.
#[derive(Debug, Clone)]
pub struct OperatorListState<T> {
    name: String,
    elements: Vec<T>,
}

impl<T: Data> OperatorListState<T> {
    /// The name must be unique among the lists of the operator.
    pub fn split(name: &str) -> Self {
        Self { name: format!("{SPLIT}{name}"), elements: Vec::new() }
    }
    /// As [`Self::split`], for a union list.
    pub fn union(name: &str) -> Self {
        Self { name: format!("{UNION}{name}"), elements: Vec::new() }
    }
    pub fn get(&self) -> &[T] {
        &self.elements
    }
    pub fn add(&mut self, element: T) {
        self.elements.push(element);
    }
    /// Replaces the list.
    pub fn update(&mut self, elements: Vec<T>) {
        self.elements = elements;
    }
    /// Empties the list and returns what was in it.
    pub fn take(&mut self) -> Vec<T> {
        std::mem::take(&mut self.elements)
    }
}

/// What the operator's stage does with a list whose type it does not know.
pub trait AnyListState: Send {
    /// Its name in snapshots.
    fn name(&self) -> &str;
    fn snapshot(&self) -> Vec<Bytes64>;
    fn restore(&mut self, elements: &[Bytes64]) -> Result<(), DecodeError>;
}

impl<T: Data> AnyListState for OperatorListState<T> {
    fn name(&self) -> &str {
        &self.name
    }
    fn snapshot(&self) -> Vec<Bytes64> {
        let encode = |element: &T| {
            let mut bytes = Vec::new();
            element.encode(&mut bytes);
            Bytes64(bytes)
        };
        self.elements.iter().map(encode).collect()
    }
    fn restore(&mut self, elements: &[Bytes64]) -> Result<(), DecodeError> {
        let decode = |bytes: &Bytes64| {
            let mut rest = bytes.0.as_slice();
            let element = T::decode(&mut rest)?;
            if rest.is_empty() { Ok(element) } else { Err(DecodeError::Invalid("bytes are left over")) }
        };
        self.elements = elements.iter().map(decode).collect::<Result<_, _>>()?;
        Ok(())
    }
}

/// Adds the lists to an operator's part of a snapshot.
pub(super) fn snapshot(states: Vec<&mut dyn AnyListState>, lists: &mut BTreeMap<String, Vec<Bytes64>>) {
    lists.extend(states.into_iter().map(|s| (s.name().to_owned(), s.snapshot())));
}

/// Takes the lists back. One that the snapshot does not know stays empty.
pub(super) fn restore(
    operator: &str,
    states: Vec<&mut dyn AnyListState>,
    restore: Option<&OperatorRestore>,
) -> Result<()> {
    let Some(restore) = restore else { return Ok(()) };
    for state in states {
        if let Some(elements) = restore.lists.get(state.name()) {
            state.restore(elements).map_err(|e| {
                let m = format!(
                    "{operator}: the list {:?} in the snapshot has elements of another type: {e}",
                    state.name()
                );
                Error::user(ErrorCode::Incompatible, m)
            })?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_another_type_is_refused() {
        let mut before = OperatorListState::split("l");
        before.add("text".to_owned());
        let mut lists = BTreeMap::new();
        snapshot(vec![&mut before], &mut lists);
        let from = OperatorRestore { lists, ..OperatorRestore::default() };
        let mut after = OperatorListState::<u64>::split("l");
        let e = restore("op", vec![&mut after], Some(&from)).unwrap_err();
        assert!(e.code == ErrorCode::Incompatible && e.message.contains("op"), "{e}");
        let mut same = OperatorListState::<String>::split("l");
        let mut new = OperatorListState::<u64>::union("l");
        restore("op", vec![&mut same, &mut new], Some(&from)).unwrap();
        assert_eq!((same.get(), new.get()), (&["text".to_owned()][..], &[][..]));
    }
}
