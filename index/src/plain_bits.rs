//! A compressed set as plain bits.
//!
//! What [`RoaringBitmap`] holds is not to be had but number by number, or in its portable form
//! (<https://github.com/RoaringBitmap/RoaringFormatSpec>), whose larger parts are plain bits: 65,536 numbers in a microsecond, in the
//! place of a nanosecond for each.

use roaring::RoaringBitmap;

/// How the portable form begins.
const WITHOUT_RUNS: u32 = 12346;
const WITH_RUNS: u16 = 12347;
/// Where there are runs, it says where containers lie only of so many.
const PLACES_FROM: usize = 4;
/// Words of a container, and the most numbers of one that is a list.
const CONTAINER: usize = 1 << 10;
const LONGEST_LIST: usize = 4096;

/// Bit by bit, as far as the last number.
pub(crate) fn plain_bits(numbers: &RoaringBitmap) -> Vec<u64> {
    let mut words = vec![0; numbers.max().map_or(0, |last| last as usize / 64 + 1)];
    let mut form = Vec::with_capacity(numbers.serialized_size());
    numbers.serialize_into(&mut form).expect("memory can be written to");
    unfold(&form, &mut words).expect("the portable form is as it is specified");
    words
}

/// `None` where the form is not as it is specified, or names numbers that are not in `words`.
fn unfold(form: &[u8], words: &mut [u64]) -> Option<()> {
    let ([a, b, c, d], mut rest) = form.split_first_chunk()?;
    let mut containers = usize::from(u16::from_le_bytes([*c, *d])) + 1;
    let mut is_run: &[u8] = &[];
    if u16::from_le_bytes([*a, *b]) == WITH_RUNS {
        (is_run, rest) = rest.split_at_checked(containers.div_ceil(8))?;
    } else if u32::from_le_bytes([*a, *b, *c, *d]) == WITHOUT_RUNS {
        let count;
        (count, rest) = rest.split_first_chunk()?;
        containers = u32::from_le_bytes(*count) as usize;
    } else {
        return None;
    }
    let (heads, mut rest) = rest.split_at_checked(4 * containers)?;
    if is_run.is_empty() || containers >= PLACES_FROM {
        rest = rest.get(4 * containers..)?;
    }
    let pair = |[a, b, c, d]: [u8; 4]| (u16::from_le_bytes([a, b]), u16::from_le_bytes([c, d]));
    for (i, head) in heads.as_chunks().0.iter().enumerate() {
        let (key, count) = pair(*head);
        let (words, count) = (words.get_mut(usize::from(key) * CONTAINER..)?, usize::from(count) + 1);
        let mut set = |number: u16| words.get_mut(usize::from(number) / 64).map(|word| *word |= 1 << (number % 64));
        let contents;
        if is_run.get(i / 8).is_some_and(|bits| bits >> (i % 8) & 1 == 1) {
            let (runs, behind) = rest.split_first_chunk()?;
            (contents, rest) = behind.split_at_checked(4 * usize::from(u16::from_le_bytes(*runs)))?;
            for run in contents.as_chunks().0 {
                let (first, more) = pair(*run);
                (first..=first.checked_add(more)?).try_for_each(&mut set)?;
            }
        } else if count <= LONGEST_LIST {
            (contents, rest) = rest.split_at_checked(2 * count)?;
            contents.as_chunks().0.iter().try_for_each(|number| set(u16::from_le_bytes(*number)))?;
        } else {
            (contents, rest) = rest.split_at_checked(8 * CONTAINER)?;
            // The last container may go beyond the last number, with no number there.
            words.iter_mut().zip(contents.as_chunks().0).for_each(|(word, bytes)| *word = u64::from_le_bytes(*bytes));
        }
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;

    #[test]
    fn the_bits_are_those_of_the_numbers_in_lists_bits_and_runs() {
        let mut random = ChaCha8Rng::seed_from_u64(1);
        let mut sets = vec![RoaringBitmap::new(), RoaringBitmap::from([0]), RoaringBitmap::from([63, 64, 65_535, 65_536, 400_000])];
        for among in [70_000, 300_000, 1_000_000] {
            for one_in in [1, 2, 15, 17, 1000] {
                sets.push((0..among).filter(|_| random.random_range(0..one_in) == 0).collect());
            }
        }
        // Three containers and nine; lists, bits and runs side by side.
        for containers in [3u32, 9] {
            let mut set = RoaringBitmap::new();
            set.insert_range(100..65_536 * containers - 7);
            set.remove_range(65_530..65_540);
            set.remove_range(2 * 65_536 + 10..3 * 65_536);
            set.extend((0..20_000).map(|i| 65_536 * containers + 3 * i));
            sets.push(set);
        }
        // As long as a list may be, and one longer.
        sets.extend([4096, 4097].map(|count| (0..count).map(|i| 65_536 + 7 * i).collect()));
        for mut set in sets {
            for optimized in [false, true] {
                if optimized {
                    set.optimize();
                }
                let mut expected = vec![0u64; set.max().map_or(0, |last| last as usize / 64 + 1)];
                set.iter().for_each(|number| expected[number as usize / 64] |= 1 << (number % 64));
                assert!(plain_bits(&set) == expected, "{} numbers, optimized: {optimized}", set.len());
            }
        }
    }

    #[test]
    fn what_is_not_the_form_is_not_read_beyond_its_end() {
        let set: RoaringBitmap = (0..5000).chain(65_536..65_600).collect();
        let mut form = Vec::new();
        set.serialize_into(&mut form).unwrap();
        let mut words = vec![0; 65_600 / 64];
        assert_eq!(unfold(&form, &mut words), Some(()));
        (0..form.len()).for_each(|len| assert_eq!(unfold(&form[..len], &mut words), None, "of {len} bytes"));
        assert_eq!(unfold(&form, &mut words[..1000]), None);
        form[0] ^= 0x80;
        assert_eq!(unfold(&form, &mut words), None);
    }
}
