//! Memory on large pages, outside the heap: for what is read at random places, and for what a build needs only meanwhile.
//!
//! A walk touches a few cache lines here and there in tens of megabytes. On pages of 4 KiB nearly each of them also misses
//! the table of addresses, which costs about as much again, on a virtual machine more. Files cannot have large pages on
//! most file systems; anonymous memory can, where it asks. What would fill its last large page with little has that little
//! on small pages: a small segment would otherwise take many times its size.
//!
//! It goes back to the system when it is dropped, which what was freed in a heap need not
//! ([`give_back_arena`](crate::background::give_back_arena)).

use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::AtomicU64;

use memmap2::{MmapMut, MmapRaw};

const PAGE: usize = 2 << 20;
/// The last large page may waste one byte in so many that are asked for.
const WASTE: usize = 8;

/// What bytes that are all zero are a value of.
///
/// # Safety
/// They must be, the type must need no drop, and no alignment above that of a large page.
pub(crate) unsafe trait Zero {}

// SAFETY: a number.
unsafe impl Zero for u8 {}
// SAFETY: a number.
unsafe impl Zero for u32 {}
// SAFETY: a number.
unsafe impl Zero for f32 {}
// SAFETY: as a number.
unsafe impl Zero for AtomicU64 {}

/// Values, zero at first, that start at a multiple of a large page.
#[derive(Debug)]
pub(crate) struct LargePages<T> {
    /// Raw: values may be atomics, which are written through shared references.
    map: MmapRaw,
    /// Bytes before the first value.
    first: usize,
    len: usize,
    values: PhantomData<T>,
}

impl<T: Zero> LargePages<T> {
    /// `len` zeros.
    pub(crate) fn new(len: usize) -> std::io::Result<Self> {
        let too_much = || std::io::Error::from(std::io::ErrorKind::OutOfMemory);
        let bytes = len.checked_mul(size_of::<T>()).ok_or_else(too_much)?;
        let whole = bytes.checked_next_multiple_of(PAGE).and_then(|bytes| bytes.checked_add(PAGE)).ok_or_else(too_much)?;
        let map = MmapRaw::from(MmapMut::map_anon(whole)?);
        let first = map.as_ptr().align_offset(PAGE);
        #[cfg(target_os = "linux")]
        {
            let large = on_large_pages(bytes);
            // Where the system has none to give, small ones do; and a system without the advice gives none unasked.
            let _ = map.advise_range(memmap2::Advice::HugePage, first, large);
            let _ = map.advise_range(memmap2::Advice::NoHugePage, first + large, whole - first - large);
        }
        Ok(Self { map, first, len, values: PhantomData })
    }

    /// None, with room for `capacity`.
    pub(crate) fn with_capacity(capacity: usize) -> std::io::Result<Self> {
        Ok(Self { len: 0, ..Self::new(capacity)? })
    }
}

impl<T: Zero + Copy> LargePages<T> {
    #[cfg(any(test, feature = "measure"))]
    pub(crate) fn of(values: &[T]) -> Self {
        let mut pages = Self::with_capacity(values.len()).expect("there is memory");
        pages.extend_from_slice(values).expect("there is room");
        pages
    }

    pub(crate) fn extend_from_slice(&mut self, values: &[T]) -> std::io::Result<()> {
        let len = self.len + values.len();
        let room = (self.map.len() - self.first) / size_of::<T>();
        if len > room {
            let mut larger = Self::new(len.max(2 * room))?;
            larger[..self.len].copy_from_slice(self);
            larger.len = self.len;
            *self = larger;
        }
        let before = std::mem::replace(&mut self.len, len);
        self[before..].copy_from_slice(values);
        Ok(())
    }
}

/// Of so many bytes, how many whole large pages hold; with the last page where it is nearly full.
fn on_large_pages(bytes: usize) -> usize {
    let all = bytes.next_multiple_of(PAGE);
    if (all - bytes) * WASTE <= bytes { all } else { bytes / PAGE * PAGE }
}

impl<T: Zero> Deref for LargePages<T> {
    type Target = [T];

    #[inline(always)]
    fn deref(&self) -> &[T] {
        // SAFETY: the mapping holds `len` values from `first` on, aligned, zero or written as such; the pointer may write.
        unsafe { std::slice::from_raw_parts(self.map.as_mut_ptr().add(self.first).cast(), self.len) }
    }
}

impl<T: Zero> DerefMut for LargePages<T> {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as above, and nobody else can reach them.
        unsafe { std::slice::from_raw_parts_mut(self.map.as_mut_ptr().add(self.first).cast(), self.len) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_on_large_pages_is_aligned_zero_and_writable() {
        for len in [0, 1, PAGE - 1, PAGE, PAGE + 1] {
            let mut memory = LargePages::<u8>::new(len).unwrap();
            assert!(memory.len() == len && memory.iter().all(|byte| *byte == 0) && memory.as_ptr().addr().is_multiple_of(PAGE));
            memory.fill(7);
        }
        assert!(LargePages::<u32>::new(usize::MAX / 2).is_err(), "too many bytes");
        assert!(LargePages::<u8>::new(usize::MAX - PAGE).is_err(), "too many with a page more");
    }

    #[test]
    fn values_are_appended_beyond_the_room_that_was_asked_for() {
        let mut values = LargePages::with_capacity(3).unwrap();
        let mut expected = Vec::new();
        for n in 0..300_000u32 {
            values.extend_from_slice(&[n, n + 7, n * 3]).unwrap();
            expected.extend([n, n + 7, n * 3]);
        }
        assert!(*values == *expected);
    }

    #[test]
    fn large_pages_waste_at_most_an_eighth() {
        for (bytes, large) in [
            (0, 0),
            (PAGE / 2, 0),
            (PAGE - PAGE / 16, PAGE),
            (PAGE, PAGE),
            (PAGE + 1, PAGE),
            (2 * PAGE - PAGE / 4, PAGE),
            (4 * PAGE - PAGE / 4, 4 * PAGE),
            (20 * PAGE + 1, 21 * PAGE),
        ] {
            assert_eq!(on_large_pages(bytes), large, "{bytes}");
        }
    }
}
