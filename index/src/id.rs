//! The name of a point: an unsigned number or a UUID, as in Qdrant.

use std::fmt;

use serde::de::{self, Deserializer, Visitor};
use serde::{Deserialize, Serialize, Serializer};
use uuid::Uuid;

/// A point's id. All numbers come before all UUIDs; numbers ascend by value, UUIDs by their bytes.
///
/// In JSON a number or a string; any spelling of a UUID is read, lowercase with hyphens is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PointId {
    Num(u64),
    Uuid(Uuid),
}

/// First byte of a UUID's key.
const UUID_KEY: u8 = 9;

impl PointId {
    /// Bytes that sort as ids do, few for small numbers: how many bytes the number has and those, or [`UUID_KEY`] and the
    /// UUID's; the highest first.
    pub(crate) fn to_key(self) -> Vec<u8> {
        match self {
            Self::Num(number) => {
                let zeros = number.leading_zeros() as usize / 8;
                [&[(8 - zeros) as u8], &number.to_be_bytes()[zeros..]].concat()
            }
            Self::Uuid(uuid) => [&[UUID_KEY], uuid.as_bytes().as_slice()].concat(),
        }
    }

    pub(crate) fn from_key(key: &[u8]) -> Option<Self> {
        match key.split_first()? {
            (&UUID_KEY, uuid) => Some(Self::Uuid(Uuid::from_bytes(uuid.try_into().ok()?))),
            (len, number) if usize::from(*len) == number.len() && number.len() <= 8 && number.first() != Some(&0) => {
                let mut bytes = [0; 8];
                bytes[8 - number.len()..].copy_from_slice(number);
                Some(Self::Num(u64::from_be_bytes(bytes)))
            }
            _ => None,
        }
    }
}

impl From<u64> for PointId {
    fn from(number: u64) -> Self {
        Self::Num(number)
    }
}

impl From<Uuid> for PointId {
    fn from(uuid: Uuid) -> Self {
        Self::Uuid(uuid)
    }
}

impl fmt::Display for PointId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Num(number) => number.fmt(f),
            Self::Uuid(uuid) => uuid.hyphenated().fmt(f),
        }
    }
}

impl Serialize for PointId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Num(number) => serializer.serialize_u64(*number),
            Self::Uuid(_) => serializer.collect_str(self),
        }
    }
}

impl<'de> Deserialize<'de> for PointId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct IdVisitor;

        impl Visitor<'_> for IdVisitor {
            type Value = PointId;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a point id: an unsigned integer or a UUID")
            }

            fn visit_u64<E: de::Error>(self, number: u64) -> Result<PointId, E> {
                Ok(PointId::Num(number))
            }

            fn visit_i64<E: de::Error>(self, number: i64) -> Result<PointId, E> {
                u64::try_from(number).map(PointId::Num).map_err(|_| E::invalid_value(de::Unexpected::Signed(number), &self))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<PointId, E> {
                Uuid::try_parse(text).map(PointId::Uuid).map_err(|_| E::invalid_value(de::Unexpected::Str(text), &self))
            }
        }

        deserializer.deserialize_any(IdVisitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_come_before_uuids_and_keys_sort_as_ids_do() {
        let ids = [
            PointId::Num(0),
            PointId::Num(255),
            PointId::Num(256),
            PointId::Num(u64::MAX),
            PointId::Uuid(Uuid::nil()),
            PointId::Uuid(Uuid::from_u128(1)),
            PointId::Uuid(Uuid::max()),
        ];
        for pair in ids.windows(2) {
            assert!(pair[0] < pair[1] && pair[0].to_key() < pair[1].to_key(), "{} against {}", pair[0], pair[1]);
        }
        assert_eq!(ids.map(|id| PointId::from_key(&id.to_key())), ids.map(Some));
        assert_eq!([&[][..], &[0, 1], &[2, 0, 1], &[9; 16], &[10; 17]].map(PointId::from_key), [None; 5]);
    }

    #[test]
    fn any_spelling_of_a_uuid_is_read_and_one_is_written() {
        let spellings = [
            "550e8400-e29b-41d4-a716-446655440000",
            "550E8400-E29B-41D4-A716-446655440000",
            "550e8400e29b41d4a716446655440000",
            "urn:uuid:550e8400-e29b-41d4-a716-446655440000",
        ];
        for spelling in spellings {
            let id: PointId = serde_json::from_value(spelling.into()).unwrap();
            assert_eq!(serde_json::to_value(id).unwrap(), spellings[0]);
        }
        assert_eq!(serde_json::from_str::<PointId>("18446744073709551615").unwrap(), PointId::Num(u64::MAX));
        for refused in ["-1", "1.5", "\"1\"", "\"x\"", "null", "18446744073709551616"] {
            assert!(serde_json::from_str::<PointId>(refused).is_err(), "{refused} was read as an id");
        }
    }
}
