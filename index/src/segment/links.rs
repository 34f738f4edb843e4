//! The links of a segment's graph, read as they are stored: two, three or four bytes each.

use std::marker::PhantomData;

use super::Segment;
use super::format::Kind;
use crate::build::Node;
use crate::kernel::Isa;

/// The links of all layers, as they are stored.
#[derive(Clone, Copy)]
pub(super) struct Links<'a> {
    starts: &'a [u32],
    bytes: &'a [u8],
    width: usize,
    /// Keeps the bytes of one link out of four.
    mask: u32,
}

impl<'a> Links<'a> {
    pub(super) fn of(segment: &'a Segment) -> Self {
        let width = segment.header.link_width;
        Self { starts: segment.section(Kind::Starts), bytes: segment.section(Kind::Links), width, mask: u32::MAX >> (32 - 8 * width) }
    }

    /// The links in list `list`: a node's place in its layer, after all places of the layers before.
    #[inline(always)]
    pub(super) fn of_list(self, list: usize) -> List<'a> {
        debug_assert!(list + 1 < self.starts.len());
        // SAFETY: opening checked that there is a start for each node on each layer and one more, and that none is past the links.
        let (at, end) = unsafe {
            let (start, end) = (*self.starts.get_unchecked(list) as usize, *self.starts.get_unchecked(list + 1) as usize);
            (self.bytes.as_ptr().add(start * self.width), self.bytes.as_ptr().add(end * self.width))
        };
        List { at, end, width: self.width, mask: self.mask, bytes: PhantomData }
    }

    /// Calls `see` with each of them. For loops without branches: over an iterator they are compiled with some, and a walk where half
    /// pass a filter takes a third more time.
    #[inline(always)]
    pub(super) fn each(self, list: usize, mut see: impl FnMut(Node)) {
        debug_assert!(list + 1 < self.starts.len());
        // SAFETY: as above and below.
        unsafe {
            let (start, end) = (*self.starts.get_unchecked(list) as usize, *self.starts.get_unchecked(list + 1) as usize);
            for i in start..end {
                see(self.bytes.as_ptr().add(i * self.width).cast::<u32>().read_unaligned() & self.mask);
            }
        }
    }

    #[inline(always)]
    pub(super) fn prefetch<I: Isa>(&self, isa: I, list: usize) {
        let start = self.starts[list] as usize * self.width;
        isa.prefetch(&self.bytes[start..], 2);
    }
}

/// The links of one list. For loops that compare vectors: a closure that two walks shared would be compiled by itself, without the
/// instructions of either.
pub(super) struct List<'a> {
    at: *const u8,
    end: *const u8,
    width: usize,
    mask: u32,
    bytes: PhantomData<&'a [u8]>,
}

impl Iterator for List<'_> {
    type Item = Node;

    #[inline(always)]
    fn next(&mut self) -> Option<Node> {
        if self.at == self.end {
            return None;
        }
        // SAFETY: opening checked that lists do not end before they start, nor past the links; behind the last link are four
        // more bytes.
        unsafe {
            let bytes = self.at.cast::<u32>().read_unaligned();
            self.at = self.at.add(self.width);
            Some(bytes & self.mask)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Against the plain way back from bytes; in memory that ends where the file's section does.
    #[test]
    fn links_of_every_width_are_read_as_they_were_stored() {
        for width in 2..=4 {
            let mask = u32::MAX >> (32 - 8 * width);
            let lists: [Vec<Node>; 6] = [vec![], vec![0], vec![mask], (0..64).map(|n| mask - 997 * n).collect(), vec![], vec![1, mask, 0]];
            let (mut starts, mut bytes) = (vec![0], Vec::new());
            for list in &lists {
                list.iter().for_each(|link| bytes.extend(&link.to_le_bytes()[..width]));
                starts.push((bytes.len() / width) as u32);
            }
            bytes.extend([0; 4]);
            let bytes = bytes.into_boxed_slice();
            let links = Links { starts: &starts, bytes: &bytes, width, mask };
            for (list, expected) in lists.iter().enumerate() {
                let mut found = Vec::new();
                links.each(list, |link| found.push(link));
                assert_eq!(
                    (links.of_list(list).collect(), found),
                    (expected.clone(), expected.clone()),
                    "list {list} in {width} bytes a link"
                );
            }
        }
    }
}
