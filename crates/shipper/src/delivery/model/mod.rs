//! Deliveries against a model of Kafka that fails wherever it may: the real state machine, from events to the position,
//! and what is promised of the partitions' content (G1, G4, G5, the prefix rule) at every step.
//!
//! `chance` decides everything, and does no harm once it is used up: so every run ends, and proptest finds the shortest
//! series of mishaps that breaks a promise.

mod chance;
mod client;
mod cluster;
mod promises;
mod sender;
mod source;

use proptest::prelude::*;

use chance::Chance;
use sender::Sender;
use source::{Change, ModelSource};

fn changes() -> impl Strategy<Value = Vec<Vec<Change>>> {
    let change = (0..2_u8, 0..5_u8).prop_map(|(topic, key)| Change { topic, key });
    let transaction = proptest::collection::vec(change, 1..8);
    proptest::collection::vec(transaction, 1..8)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn at_least_once_every_partition_has_what_is_owed_in_order(
        changes in changes(), partitions in 1..4_i32, bytes in proptest::collection::vec(any::<u8>(), 0..300)
    ) {
        let source = ModelSource::new(&changes, partitions);
        Sender::new(source, false, Chance::new(bytes)).run();
    }

    #[test]
    fn exactly_once_every_partition_has_what_is_owed_once(
        changes in changes(), partitions in 1..4_i32, bytes in proptest::collection::vec(any::<u8>(), 0..300)
    ) {
        let source = ModelSource::new(&changes, partitions);
        Sender::new(source, true, Chance::new(bytes)).run();
    }
}
