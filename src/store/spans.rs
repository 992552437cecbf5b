use std::ops::Range;

use crate::units::Bytes;

/// Parts of a blob, by offset: sorted, apart from each other, none of them empty.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Spans(Vec<Range<u64>>);

impl Spans {
    /// Adds a part; what touches it becomes one with it.
    pub fn add(&mut self, new: Range<u64>) {
        if new.is_empty() {
            return;
        }
        let from = self.0.partition_point(|span| span.end < new.start);
        let to = self.0.partition_point(|span| span.start <= new.end);
        let touched = &self.0[from..to];
        let start = touched.first().map_or(new.start, |span| span.start.min(new.start));
        let end = touched.last().map_or(new.end, |span| span.end.max(new.end));
        self.0.splice(from..to, std::iter::once(start..end));
    }

    /// Returns how much all parts are together.
    pub fn total(&self) -> Bytes {
        Bytes(self.0.iter().map(|span| span.end - span.start).sum())
    }

    /// Returns how much is there from the first byte on, without a hole.
    pub fn prefix(&self) -> u64 {
        self.0.first().filter(|span| span.start == 0).map_or(0, |span| span.end)
    }

    /// Returns whether all of a part is there.
    pub fn holds(&self, part: &Range<u64>) -> bool {
        let at = self.0.partition_point(|span| span.end < part.end);
        part.is_empty() || self.0.get(at).is_some_and(|span| span.start <= part.start)
    }

    /// Returns what is missing below `size`.
    pub fn gaps(&self, size: u64) -> Vec<Range<u64>> {
        let starts = [0].into_iter().chain(self.0.iter().map(|span| span.end));
        let ends = self.0.iter().map(|span| span.start).chain([u64::MAX]);
        let gaps = starts.zip(ends).map(|(start, end)| start..end.min(size));
        gaps.filter(|gap| !gap.is_empty()).collect()
    }

    /// Returns the parts.
    pub fn iter(&self) -> impl Iterator<Item = &Range<u64>> {
        self.0.iter()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn parts_are_what_a_bit_for_each_byte_would_say(
            parts in prop::collection::vec((0u64..40, 0u64..12), 0..20), size in 0u64..60,
        ) {
            let (mut spans, mut bits) = (Spans::default(), vec![false; 64]);
            for (start, length) in parts {
                spans.add(start..start + length);
                bits[usize::try_from(start).unwrap()..usize::try_from(start + length).unwrap()].fill(true);
            }
            let held: Vec<u64> = (0..64).filter(|&i| bits[usize::try_from(i).unwrap()]).collect();
            prop_assert_eq!(spans.iter().cloned().flatten().collect::<Vec<_>>(), held.clone());
            prop_assert!(spans.0.windows(2).all(|two| two[0].end < two[1].start));
            prop_assert_eq!(spans.total(), Bytes(held.len() as u64));
            prop_assert_eq!(spans.prefix(), bits.iter().take_while(|bit| **bit).count() as u64);
            let missing: Vec<u64> = (0..size).filter(|i| !held.contains(i)).collect();
            let part = size / 3..size / 2;
            let is_held = part.clone().all(|i| bits[usize::try_from(i).unwrap()]);
            prop_assert_eq!(spans.holds(&part), is_held);
            prop_assert_eq!(spans.gaps(size).into_iter().flatten().collect::<Vec<_>>(), missing);
        }
    }
}
