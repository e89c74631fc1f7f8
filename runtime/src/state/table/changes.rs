//! What a frozen table has that a store does not: in the order of the hash, as a sorted file wants it.
use super::frozen::{FrozenSegments, Part};
use super::layer::Slot;
use crate::data::{Data, Key};
use crate::error::Result;

/// Takes the hash, the encoded key, and the encoded value unless the key was removed.
pub type ChangeVisitor<'a> = dyn FnMut(u64, &[u8], Option<&[u8]>) -> Result<()> + 'a;

enum Change<'a, K, V> {
    Set(&'a Slot<K, V>),
    Removed(&'a K),
}

impl<K: Key, V: Data> Change<'_, K, V> {
    fn key(&self) -> &K {
        match self {
            Self::Set(slot) => &slot.key,
            Self::Removed(key) => key,
        }
    }
    fn encoded_key(&self) -> Vec<u8> {
        let mut key = Vec::new();
        self.key().encode(&mut key);
        key
    }
}

impl<K: Key, V: Data> FrozenSegments<K, V> {
    /// Visits what was written and removed after epoch `since`, by hash, and by the encoded key where hashes are equal. What is
    /// not kept counts as removed. Lets go of each segment as soon as it was visited.
    pub fn changes(self, since: u32, visit: &mut ChangeVisitor<'_>) -> Result<()> {
        let keep = self.keep();
        let keep = |s: &Slot<K, V>| keep.as_ref().is_none_or(|k| k(&s.value));
        let (mut key, mut value) = (Vec::new(), Vec::new());
        for part in self.into_parts() {
            for change in part.sorted(since) {
                key.clear();
                change.key().encode(&mut key);
                match change {
                    Change::Set(slot) if keep(slot) => {
                        value.clear();
                        slot.value.encode(&mut value);
                        visit(slot.key.key_hash(), &key, Some(&value))?;
                    }
                    _ => visit(change.key().key_hash(), &key, None)?,
                }
            }
        }
        Ok(())
    }
}

impl<K: Key, V: Data> Part<K, V> {
    fn sorted(&self, since: u32) -> Vec<Change<'_, K, V>> {
        let set = self.slots(Some(since)).map(Change::Set);
        let mut all: Vec<_> =
            set.chain(self.removed(since).map(Change::Removed)).map(|c| (c.key().key_hash(), c)).collect();
        all.sort_unstable_by_key(|c| c.0);
        let mut at = 0;
        while at < all.len() {
            let same = all[at..].iter().take_while(|c| c.0 == all[at].0).count();
            if same > 1 {
                all[at..at + same].sort_by_cached_key(|c| c.1.encoded_key());
            }
            at += same;
        }
        all.into_iter().map(|c| c.1).collect()
    }
}
