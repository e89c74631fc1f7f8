//! The map that a `MapState` holds per key.
use crate::data::{Data, DecodeError, Key, Type, put_len, take_len};
use hashbrown::HashTable;
use hashbrown::hash_table::Entry;

/// A small hash map over [`Key`] types. Iterates in no useful order.
#[derive(Clone)]
pub struct KeyMap<K, V>(HashTable<(K, V)>);

impl<K, V> Default for KeyMap<K, V> {
    fn default() -> Self {
        Self(HashTable::new())
    }
}

impl<K: Key, V> KeyMap<K, V> {
    pub fn get(&self, key: &K) -> Option<&V> {
        self.0.find(key.key_hash(), |e| e.0 == *key).map(|e| &e.1)
    }
    pub fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        self.0.find_mut(key.key_hash(), |e| e.0 == *key).map(|e| &mut e.1)
    }
    pub fn contains(&self, key: &K) -> bool {
        self.get(key).is_some()
    }
    /// Sets the value of `key` and returns the one before.
    pub fn insert(&mut self, key: K, value: V) -> Option<V> {
        match self.0.entry(key.key_hash(), |e| e.0 == key, |e| e.0.key_hash()) {
            Entry::Occupied(e) => Some(std::mem::replace(&mut e.into_mut().1, value)),
            Entry::Vacant(e) => {
                e.insert((key, value));
                None
            }
        }
    }
    /// The value of `key`, which is [`Default`] if there was none.
    pub fn get_mut_or_default(&mut self, key: &K) -> &mut V
    where
        V: Default,
    {
        self.get_mut_or_insert_with(key, V::default)
    }
    pub fn get_mut_or_insert_with(&mut self, key: &K, new: impl FnOnce() -> V) -> &mut V {
        match self.0.entry(key.key_hash(), |e| e.0 == *key, |e| e.0.key_hash()) {
            Entry::Occupied(e) => &mut e.into_mut().1,
            Entry::Vacant(e) => &mut e.insert((key.clone(), new())).into_mut().1,
        }
    }
    pub fn remove(&mut self, key: &K) -> Option<V> {
        let ((_, value), _) = self.0.find_entry(key.key_hash(), |e| e.0 == *key).ok()?.remove();
        if self.0.len() < self.0.capacity() / 8 && self.0.capacity() > 64 {
            self.0.shrink_to(self.0.len() * 2, |e| e.0.key_hash());
        }
        Some(value)
    }
    pub fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.0.iter().map(|(k, v)| (k, v))
    }
    pub fn len(&self) -> usize {
        self.0.len()
    }
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<K: Key, V: PartialEq> PartialEq for KeyMap<K, V> {
    fn eq(&self, other: &Self) -> bool {
        self.len() == other.len() && self.iter().all(|(k, v)| other.get(k) == Some(v))
    }
}
impl<K: std::fmt::Debug, V: std::fmt::Debug> std::fmt::Debug for KeyMap<K, V> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_map().entries(self.0.iter().map(|(k, v)| (k, v))).finish()
    }
}

impl<K: Key, V: Data> Data for KeyMap<K, V> {
    fn encode(&self, out: &mut Vec<u8>) {
        put_len(out, self.len());
        for (k, v) in self.iter() {
            k.encode(out);
            v.encode(out);
        }
    }
    fn decode(input: &mut &[u8]) -> Result<Self, DecodeError> {
        let mut map = Self::default();
        for _ in 0..take_len(input)? {
            let k = K::decode(input)?;
            if map.insert(k, V::decode(input)?).is_some() {
                return Err(DecodeError::Invalid("a map has a key twice"));
            }
        }
        Ok(map)
    }
    fn type_of() -> Type {
        Type::Map(Box::new(K::type_of()), Box::new(V::type_of()))
    }
}
