//! Memory on large pages, for what is read at random places.
//!
//! A walk touches a few cache lines here and there in tens of megabytes. On pages of 4 KiB nearly each of them also misses
//! the table of addresses, which costs about as much again, on a virtual machine more. Files cannot have large pages on
//! most file systems; anonymous memory can, where it asks.

use std::ops::{Deref, DerefMut};

use memmap2::MmapMut;

const PAGE: usize = 2 << 20;

/// Bytes, zero at first, that start at a large page.
#[derive(Debug)]
pub(crate) struct LargePages {
    map: MmapMut,
    first: usize,
    len: usize,
}

impl LargePages {
    pub(crate) fn new(len: usize) -> std::io::Result<Self> {
        let map = MmapMut::map_anon(len.next_multiple_of(PAGE) + PAGE)?;
        // Where the system has none to give, small ones do.
        #[cfg(target_os = "linux")]
        let _ = map.advise(memmap2::Advice::HugePage);
        let first = map.as_ptr().align_offset(PAGE);
        Ok(Self { map, first, len })
    }
}

impl Deref for LargePages {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.map[self.first..self.first + self.len]
    }
}

impl DerefMut for LargePages {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.map[self.first..self.first + self.len]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_on_large_pages_is_aligned_zero_and_writable() {
        for len in [0, 1, PAGE - 1, PAGE, PAGE + 1] {
            let mut memory = LargePages::new(len).unwrap();
            assert!(memory.len() == len && memory.iter().all(|byte| *byte == 0) && memory.as_ptr().addr().is_multiple_of(PAGE));
            memory.fill(7);
        }
    }
}
