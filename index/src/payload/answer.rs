//! What indexes know of a condition: the points of which it is certainly true, and those of which it is possibly true.
//!
//! Both ends are kept because `must_not` turns them around: what may be true on one side of it may be false on the other,
//! and a superset, negated, would leave points out that pass.

use roaring::RoaringBitmap;

/// Certain ⊆ true ⊆ possible.
#[derive(Clone, Debug)]
pub(super) struct Answer {
    pub(super) certain: RoaringBitmap,
    pub(super) possible: Possible,
}

#[derive(Clone, Debug)]
pub(super) enum Possible {
    /// No others than the certain ones: the answer is exact.
    Certain,
    These(RoaringBitmap),
    /// All points there are: nothing is known.
    All,
}

impl Answer {
    pub(super) fn exact(points: RoaringBitmap) -> Self {
        Self { certain: points, possible: Possible::Certain }
    }

    pub(super) fn between(certain: RoaringBitmap, possible: RoaringBitmap) -> Self {
        let possible = if certain.len() == possible.len() { Possible::Certain } else { Possible::These(possible) };
        Self { certain, possible }
    }

    pub(super) fn at_most(possible: RoaringBitmap) -> Self {
        Self::between(RoaringBitmap::new(), possible)
    }

    pub(super) fn unknown() -> Self {
        Self { certain: RoaringBitmap::new(), possible: Possible::All }
    }

    pub(super) fn none() -> Self {
        Self::exact(RoaringBitmap::new())
    }

    /// True of all points, with `all` of them.
    pub(super) fn all(all: &RoaringBitmap) -> Self {
        Self::exact(all.clone())
    }

    pub(super) fn is_none(&self) -> bool {
        match &self.possible {
            Possible::Certain => self.certain.is_empty(),
            Possible::These(points) => points.is_empty(),
            Possible::All => false,
        }
    }

    /// The same without what is certain.
    pub(super) fn uncertain(self) -> Self {
        match self.possible {
            Possible::Certain => Self::at_most(self.certain),
            Possible::These(points) => Self::at_most(points),
            Possible::All => Self::unknown(),
        }
    }

    pub(super) fn and(self, other: Self) -> Self {
        let possible = match (self.possible, other.possible) {
            (Possible::Certain, Possible::Certain) => Possible::Certain,
            (Possible::All, Possible::All) => Possible::All,
            (Possible::All, Possible::Certain) => Possible::These(other.certain.clone()),
            (Possible::Certain, Possible::All) => Possible::These(self.certain.clone()),
            (Possible::All, Possible::These(points)) | (Possible::These(points), Possible::All) => Possible::These(points),
            (Possible::These(points), Possible::Certain) => Possible::These(points & &other.certain),
            (Possible::Certain, Possible::These(points)) => Possible::These(points & &self.certain),
            (Possible::These(a), Possible::These(b)) => Possible::These(a & b),
        };
        Self { certain: self.certain & other.certain, possible }
    }

    pub(super) fn or(self, other: Self) -> Self {
        let possible = match (self.possible, other.possible) {
            (Possible::Certain, Possible::Certain) => Possible::Certain,
            (Possible::All, _) | (_, Possible::All) => Possible::All,
            (Possible::These(points), Possible::Certain) => Possible::These(points | &other.certain),
            (Possible::Certain, Possible::These(points)) => Possible::These(points | &self.certain),
            (Possible::These(a), Possible::These(b)) => Possible::These(a | b),
        };
        Self { certain: self.certain | other.certain, possible }
    }

    /// The opposite, among `all` points.
    pub(super) fn not(self, all: &RoaringBitmap) -> Self {
        match self.possible {
            Possible::Certain => Self::exact(all - self.certain),
            Possible::These(points) => Self { possible: Possible::These(all - self.certain), certain: all - points },
            Possible::All if self.certain.is_empty() => Self::unknown(),
            Possible::All => Self { possible: Possible::These(all - self.certain), certain: RoaringBitmap::new() },
        }
    }

    /// True of the points of which at least `count` answers are.
    pub(super) fn at_least(answers: Vec<Self>, count: usize, all: &RoaringBitmap) -> Self {
        /// Sets that are united or cut in all; beyond it nothing is known, so that a filter cannot ask for minutes of work.
        const MOST: usize = 4096;
        if count == 0 {
            return Self::all(all);
        }
        if count > answers.len() {
            return Self::none();
        }
        if answers.len().saturating_mul(count) > MOST {
            return Self::unknown();
        }
        // Of position i: the points of which i + 1 answers, of those looked at so far, are true.
        let mut reached = vec![Self::none(); count];
        for answer in answers {
            for level in (1..count).rev() {
                let step = reached[level - 1].clone().and(answer.clone());
                let before = std::mem::replace(&mut reached[level], Self::none());
                reached[level] = before.or(step);
            }
            let before = std::mem::replace(&mut reached[0], Self::none());
            reached[0] = before.or(answer);
        }
        reached.pop().unwrap_or_else(Self::none)
    }
}
