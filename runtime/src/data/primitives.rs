//! `Data` and `Key` of primitives, strings, options, collections and tuples.
use super::{
    Column, Data, DecodeError, Key, Str, Type, column, hash_bytes, hash_combine, hash_u64, put_len, same_bytes, take,
    take_len,
};
use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;
use std::marker::PhantomData;

macro_rules! numbers {
    ($t:ident $type:ident $($column:item)*) => {
        impl Data for $t {
            #[inline]
            fn encode(&self, out: &mut Vec<u8>) {
                out.extend_from_slice(&self.to_le_bytes());
            }
            #[inline]
            fn decode(input: &mut &[u8]) -> Result<Self, DecodeError> {
                const N: usize = size_of::<$t>();
                let mut bytes = [0; N];
                bytes.copy_from_slice(take(input, N)?);
                Ok(Self::from_le_bytes(bytes))
            }
            fn type_of() -> Type {
                Type::$type
            }
            $($column)*
        }
    };
}
/// Those whose values in a batch are often close to each other; `$flip` keeps the order of signed ones.
macro_rules! integers {
    ($($t:ident $type:ident $flip:literal),*) => {$(numbers! { $t $type
        #[inline]
        fn encode_column<'a>(values: impl Iterator<Item = &'a Self> + Clone, out: &mut Vec<u8>) {
            column::put_words(values.map(|&x| x as u64 ^ $flip), out);
        }
        #[inline]
        fn decode_column(input: &[u8], n: usize) -> Result<(impl Column<Self>, &[u8]), DecodeError> {
            let (words, rest) = column::Words::new(input, n)?;
            Ok((Numbers::<$t>(words, PhantomData), rest))
        }
    }
    impl Column<$t> for Numbers<'_, $t> {
        #[inline(always)]
        fn read(&mut self) -> Result<$t, DecodeError> {
            Ok((self.0.take() ^ $flip) as $t)
        }
    })*};
}
/// A column of integers of type `T`.
struct Numbers<'a, T>(column::Words<'a>, PhantomData<fn() -> T>);

/// Those that lie in a column as they are.
macro_rules! plain {
    ($($t:ident $type:ident),*) => {$(numbers! { $t $type
        #[inline]
        fn encode_column<'a>(values: impl Iterator<Item = &'a Self> + Clone, out: &mut Vec<u8>) {
            values.for_each(|x| x.encode(out));
        }
        #[inline]
        fn decode_column(input: &[u8], n: usize) -> Result<(impl Column<Self>, &[u8]), DecodeError> {
            let (mut values, rest) = column::bytes(input, n * size_of::<$t>())?;
            Ok((move || Self::decode(&mut values), rest))
        }
    })*};
}
integers!(u8 U8 0, u16 U16 0, u32 U32 0, u64 U64 0);
integers!(i8 I8 0x8000_0000_0000_0000, i16 I16 0x8000_0000_0000_0000, i32 I32 0x8000_0000_0000_0000, i64 I64 0x8000_0000_0000_0000);
plain!(u128 U128, i128 I128, f32 F32, f64 F64);

macro_rules! integer_keys {
    ($($t:ident),*) => {$(
        impl Key for $t {
            #[inline]
            fn key_hash(&self) -> u64 {
                hash_u64(*self as u64)
            }
        }
    )*};
}
integer_keys!(u8, u16, u32, u64, i8, i16, i32, i64);

impl Key for u128 {
    #[inline]
    fn key_hash(&self) -> u64 {
        hash_combine(hash_u64(*self as u64), hash_u64((*self >> 64) as u64))
    }
}
impl Key for i128 {
    #[inline]
    fn key_hash(&self) -> u64 {
        (*self as u128).key_hash()
    }
}

impl Data for () {
    fn encode(&self, _: &mut Vec<u8>) {}
    fn decode(_: &mut &[u8]) -> Result<Self, DecodeError> {
        Ok(())
    }
    fn type_of() -> Type {
        Type::Unit
    }
}
impl Key for () {
    fn key_hash(&self) -> u64 {
        hash_u64(0)
    }
}

impl Data for bool {
    #[inline]
    fn encode(&self, out: &mut Vec<u8>) {
        out.push(u8::from(*self));
    }
    #[inline]
    fn decode(input: &mut &[u8]) -> Result<Self, DecodeError> {
        match take(input, 1)?[0] {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(DecodeError::Invalid("a bool is neither 0 nor 1")),
        }
    }
    fn type_of() -> Type {
        Type::Bool
    }
    #[inline]
    fn encode_column<'a>(values: impl Iterator<Item = &'a Self> + Clone, out: &mut Vec<u8>) {
        out.extend(values.map(|&x| u8::from(x)));
    }
    #[inline]
    fn decode_column(input: &[u8], n: usize) -> Result<(impl Column<Self>, &[u8]), DecodeError> {
        let (mut values, rest) = column::bytes(input, n)?;
        Ok((move || Self::decode(&mut values), rest))
    }
}
impl Key for bool {
    #[inline]
    fn key_hash(&self) -> u64 {
        hash_u64(u64::from(*self))
    }
}

impl Data for char {
    fn encode(&self, out: &mut Vec<u8>) {
        u32::from(*self).encode(out);
    }
    fn decode(input: &mut &[u8]) -> Result<Self, DecodeError> {
        Self::from_u32(u32::decode(input)?).ok_or(DecodeError::Invalid("a char is not a Unicode scalar value"))
    }
    fn type_of() -> Type {
        Type::Char
    }
}
impl Key for char {
    fn key_hash(&self) -> u64 {
        hash_u64(u64::from(u32::from(*self)))
    }
}

macro_rules! strings {
    ($($t:ident),*) => {$(
        impl Data for $t {
            #[inline]
            fn encode(&self, out: &mut Vec<u8>) {
                put_len(out, self.len());
                out.extend_from_slice(self.as_bytes());
            }
            #[inline(always)] // out of line, the string would go through memory once more
            fn decode(input: &mut &[u8]) -> Result<Self, DecodeError> {
                let n = take_len(input)?;
                let text = std::str::from_utf8(take(input, n)?).map_err(|_| DecodeError::Invalid("a string is not UTF-8"))?;
                Ok($t::from(text))
            }
            fn type_of() -> Type {
                Type::String
            }
            #[inline]
            fn encode_column<'a>(values: impl Iterator<Item = &'a Self> + Clone, out: &mut Vec<u8>) {
                column::put_strings(values.map(|s| s.as_str()), out);
            }
            #[inline]
            fn decode_column(input: &[u8], n: usize) -> Result<(impl Column<Self>, &[u8]), DecodeError> {
                column::Strings::new(input, n)
            }
        }
        impl Column<$t> for column::Strings<'_> {
            #[inline(always)]
            fn read(&mut self) -> Result<$t, DecodeError> {
                self.take().map($t::from)
            }
        }
        impl Key for $t {
            #[inline]
            fn key_hash(&self) -> u64 {
                hash_bytes(self.as_bytes())
            }
            #[inline]
            fn same_key(&self, other: &Self) -> bool {
                same_bytes(self.as_bytes(), other.as_bytes())
            }
        }
    )*};
}
strings!(String, Str);

impl<T: Data> Data for Option<T> {
    #[inline]
    fn encode(&self, out: &mut Vec<u8>) {
        match self {
            None => out.push(0),
            Some(x) => {
                out.push(1);
                x.encode(out);
            }
        }
    }
    #[inline]
    fn decode(input: &mut &[u8]) -> Result<Self, DecodeError> {
        match take(input, 1)?[0] {
            0 => Ok(None),
            1 => T::decode(input).map(Some),
            _ => Err(DecodeError::Invalid("an option is neither 0 nor 1")),
        }
    }
    fn type_of() -> Type {
        Type::Option(Box::new(T::type_of()))
    }
    /// Number of values that are there, which of them are, these.
    fn encode_column<'a>(values: impl Iterator<Item = &'a Self> + Clone, out: &mut Vec<u8>)
    where
        T: 'a,
    {
        let there = values.clone().filter_map(Option::as_ref);
        out.extend_from_slice(&(there.clone().count() as u32).to_le_bytes());
        out.extend(values.map(|x| u8::from(x.is_some())));
        T::encode_column(there, out);
    }
    fn decode_column(input: &[u8], n: usize) -> Result<(impl Column<Self>, &[u8]), DecodeError> {
        let (mut count, _) = column::bytes(input, 4)?;
        let count = u32::decode(&mut count)? as usize;
        let (mut flags, rest) = column::bytes(&input[4..], n)?;
        if flags.iter().filter(|&&f| f == 1).count() != count {
            return Err(DecodeError::Invalid("a column has more or fewer values than it says"));
        }
        let (mut there, rest) = T::decode_column(rest, count)?;
        let next = move || match take(&mut flags, 1)?[0] {
            0 => Ok(None),
            1 => there.read().map(Some),
            _ => Err(DecodeError::Invalid("an option is neither 0 nor 1")),
        };
        Ok((next, rest))
    }
}
impl<T: Key> Key for Option<T> {
    #[inline]
    fn key_hash(&self) -> u64 {
        self.as_ref().map_or_else(|| hash_u64(0), |x| hash_combine(1, x.key_hash()))
    }
}

/// How many elements to make room for, given what the bytes claim and how many there are: a stranger's length must not
/// become an allocation.
fn room(claimed: usize, input: &[u8]) -> usize {
    claimed.min(input.len()).min(4096)
}

impl<T: Data> Data for Vec<T> {
    fn encode(&self, out: &mut Vec<u8>) {
        put_len(out, self.len());
        self.iter().for_each(|x| x.encode(out));
    }
    fn decode(input: &mut &[u8]) -> Result<Self, DecodeError> {
        let n = take_len(input)?;
        let mut all = Self::with_capacity(room(n, input));
        for _ in 0..n {
            let before = input.len();
            all.push(T::decode(input)?);
            if input.len() == before && n > (1 << 20) {
                return Err(DecodeError::Invalid("a list claims too many elements without a length"));
            }
        }
        Ok(all)
    }
    fn type_of() -> Type {
        match T::type_of() {
            Type::U8 => Type::Bytes,
            t => Type::List(Box::new(t)),
        }
    }
}
impl<T: Key> Key for Vec<T> {
    fn key_hash(&self) -> u64 {
        self.iter().fold(hash_u64(self.len() as u64), |h, x| hash_combine(h, x.key_hash()))
    }
}

macro_rules! maps {
    ($map:ident, $($bound:tt)*) => {
        impl<K: Data + $($bound)*, V: Data> Data for $map<K, V> {
            fn encode(&self, out: &mut Vec<u8>) {
                put_len(out, self.len());
                for (k, v) in self {
                    k.encode(out);
                    v.encode(out);
                }
            }
            fn decode(input: &mut &[u8]) -> Result<Self, DecodeError> {
                let n = take_len(input)?;
                if n > (1 << 20) && n > input.len() {
                    return Err(DecodeError::Invalid("a map claims more entries than there are bytes"));
                }
                let mut all = Self::default();
                for _ in 0..n {
                    let k = K::decode(input)?;
                    all.insert(k, V::decode(input)?);
                }
                Ok(all)
            }
            fn type_of() -> Type {
                Type::Map(Box::new(K::type_of()), Box::new(V::type_of()))
            }
        }
    };
}
maps!(HashMap, Eq + Hash);
maps!(BTreeMap, Ord);

impl<T: Data> Data for Box<T> {
    fn encode(&self, out: &mut Vec<u8>) {
        (**self).encode(out);
    }
    fn decode(input: &mut &[u8]) -> Result<Self, DecodeError> {
        T::decode(input).map(Self::new)
    }
    fn type_of() -> Type {
        T::type_of()
    }
}

macro_rules! tuples {
    ($($name:ident $i:tt),+) => {
        impl<$($name: Data),+> Data for ($($name,)+) {
            #[inline]
            fn encode(&self, out: &mut Vec<u8>) {
                $(self.$i.encode(out);)+
            }
            #[inline]
            fn decode(input: &mut &[u8]) -> Result<Self, DecodeError> {
                Ok(($($name::decode(input)?,)+))
            }
            fn type_of() -> Type {
                Type::Tuple(vec![$($name::type_of()),+])
            }
            #[inline]
            fn encode_column<'a>(values: impl Iterator<Item = &'a Self> + Clone, out: &mut Vec<u8>)
            where
                Self: 'a,
            {
                $($name::encode_column(values.clone().map(|x| &x.$i), out);)+
            }
            #[inline]
            #[allow(non_snake_case)]
            fn decode_column(input: &[u8], n: usize) -> Result<(impl Column<Self>, &[u8]), DecodeError> {
                $(let (mut $name, input) = $name::decode_column(input, n)?;)+
                Ok((move || Ok(($($name.read()?,)+)), input))
            }
        }
        impl<$($name: Key),+> Key for ($($name,)+) {
            #[inline]
            fn key_hash(&self) -> u64 {
                let mut h = 0;
                $(h = hash_combine(h, self.$i.key_hash());)+
                h
            }
            #[inline]
            fn same_key(&self, other: &Self) -> bool {
                $(self.$i.same_key(&other.$i))&&+
            }
        }
    };
}
tuples!(A 0);
tuples!(A 0, B 1);
tuples!(A 0, B 1, C 2);
tuples!(A 0, B 1, C 2, D 3);
tuples!(A 0, B 1, C 2, D 3, E 4);
tuples!(A 0, B 1, C 2, D 3, E 4, F 5);
