//! Shares of the id space: `total` of them, disjoint, the same on every machine.
//!
//! A point belongs to share `hash(id) % total`, the hash being SipHash-2-4 under a zero key of the number's eight bytes,
//! lowest first, or of the UUID's sixteen, as Qdrant 1.20 has it.

use std::hash::Hasher;

use crate::id::PointId;

/// Share `index` of `total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slice {
    /// At least 1.
    pub total: u64,
    /// Below `total`.
    pub index: u64,
}

impl Slice {
    pub(crate) fn holds(self, id: PointId) -> bool {
        self.total != 0 && hash(id) % self.total == self.index
    }
}

#[expect(deprecated, reason = "the standard library's current hasher makes fewer rounds and may change; this one is SipHash-2-4 for good")]
fn hash(id: PointId) -> u64 {
    let mut hasher = std::hash::SipHasher::new();
    match id {
        PointId::Num(number) => hasher.write(&number.to_le_bytes()),
        PointId::Uuid(uuid) => hasher.write(uuid.as_bytes()),
    }
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    /// The expected values are those of `qdrant_client.local.siphash.siphash24` 1.20.0.
    #[test]
    fn ids_hash_as_they_do_in_qdrant() {
        let ids = [
            PointId::Num(0),
            PointId::Num(1),
            PointId::Num(u64::MAX),
            PointId::Uuid(Uuid::from_u128(0x550e8400_e29b_41d4_a716_446655440000)),
        ];
        assert_eq!(ids.map(hash), HASHES);
    }

    const HASHES: [u64; 4] = [0xe849e8bb6ffe2567, 0x8004c5a694105f5e, 0x8050c18b6ac9d15e, 0xf5d0ca21ba34d504];

    #[test]
    fn each_id_is_in_exactly_one_share() {
        for id in 0..500 {
            let shares = (0..7).filter(|index| Slice { total: 7, index: *index }.holds(PointId::Num(id)));
            assert_eq!(shares.count(), 1);
        }
    }
}
