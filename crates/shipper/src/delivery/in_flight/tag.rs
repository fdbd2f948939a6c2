//! What a record belongs to, in the one word that librdkafka carries along.

/// The word of a record that is no event's, but the position's in its Kafka transaction.
pub(in crate::delivery) const POSITION_WORD: usize = usize::MAX;

/// What an event's record belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::delivery) struct DeliveryTag {
    pub(in crate::delivery) transaction: u64,
    pub(in crate::delivery) topic: usize,
    /// It is an event, and not a tombstone or a copy in a further partition.
    pub(in crate::delivery) counts: bool,
}

impl DeliveryTag {
    /// The transaction's number has 31 bits in it: they tell transactions that are on their way from each other.
    const TRANSACTION: u64 = (1 << 31) - 1;

    #[inline]
    pub(in crate::delivery) fn to_word(self) -> usize {
        ((self.transaction & Self::TRANSACTION) << 33) as usize
            | usize::from(self.counts) << 32
            | self.topic
    }

    #[inline]
    pub(in crate::delivery) fn of_word(word: usize) -> DeliveryTag {
        DeliveryTag {
            transaction: (word >> 33) as u64,
            topic: word & 0xffff_ffff,
            counts: word >> 32 & 1 == 1,
        }
    }

    /// Its place among those on their way, of which `first` is the oldest.
    #[inline]
    pub(super) fn index_after(self, first: u64) -> usize {
        (self.transaction.wrapping_sub(first) & Self::TRANSACTION) as usize
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_word_tells_transactions_that_are_on_their_way_apart(
            first in any::<u64>(), index in 0..1_000_000_usize, topic in 0..1_000_000_usize, counts: bool
        ) {
            let transaction = first.wrapping_add(index as u64);
            let word = DeliveryTag { transaction, topic, counts }.to_word();
            prop_assert_ne!(word, POSITION_WORD);
            let tag = DeliveryTag::of_word(word);
            prop_assert_eq!((tag.topic, tag.counts), (topic, counts));
            prop_assert_eq!(tag.index_after(first), index);
        }
    }
}
