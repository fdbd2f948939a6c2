//! A replica that is consistent: parts of a transaction of the source go into an open transaction of the target.

mod doubts;
mod ending;
pub(crate) mod search;
mod transaction;

use std::future::Future;

use change::trouble::Trouble;

use crate::error::Result;
use crate::kafka::record::Record;
use crate::rejected::dead_letter::DeadLetters;
use crate::sink::ordered::{Commit, OrderedSink, PartEnd, PartOutcome, Poison};
use crate::sink::postgres::parked::pending_actions;
use crate::sink::postgres::replica::Replica;
use crate::status::SinkStatus;

impl OrderedSink for Replica {
    async fn connect(&mut self) -> Result<()> {
        Replica::connect(self).await
    }

    async fn apply_part(
        &mut self,
        records: &[Record],
        dead_letters: &DeadLetters,
    ) -> Result<PartOutcome> {
        transaction::apply_part(self, records, dead_letters).await
    }

    async fn commit_part(
        &mut self,
        records: &[Record],
        commit: &Commit<'_>,
        dead_letters: &DeadLetters,
    ) -> Result<PartEnd> {
        ending::commit_part(self, records, commit, dead_letters).await
    }

    async fn stop_at(&mut self, poison: &Poison, dead_letters: &DeadLetters) -> Result<Trouble> {
        transaction::stop_at(self, poison, dead_letters).await
    }

    async fn decided(&self) {
        Replica::decided(self).await;
    }

    async fn carry_out(&mut self, dead_letters: &DeadLetters) -> Result<u64> {
        pending_actions::carry_out(self, dead_letters).await
    }

    async fn resumed(&mut self) {
        Replica::resumed(self).await;
    }

    fn no_answer(&self, status: &SinkStatus) -> impl Future<Output = Trouble> + Send + 'static {
        Replica::no_answer(self, status)
    }

    async fn rest(&mut self, is_over: bool) {
        self.hold_nothing(is_over).await;
    }
}
