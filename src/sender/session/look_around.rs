//! Everything that may happen at any time: interrupts, settings, orders, and what the threads told.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use change::trouble::Trouble;
use shipper::facts::Durable;
use shipper::files::local_position::LocalPosition;
use shipper::files::orders::Aside;
use shipper::trouble::Failure;

use crate::sender::kafka_settings::read_settings;
use crate::sender::main_thread::End;
use crate::sender::session::Session;
use crate::sender::session::figures::Figures;
use crate::sender::session::idle::RECORD_EVERY_BYTES;
use crate::sender::session::reading::Reading;
use crate::sender::sleep::{interrupts, reload_if_asked};
use crate::sender::wal::reader::flushed;
use crate::shared::State;

/// What the server remembers of the position is written no more often than this.
const REMEMBER_EVERY: Duration = Duration::from_secs(5);
/// Behind the end of the WAL by more than this, the sender is catching up.
const CATCHING_UP_BYTES: u64 = 16 * 1024 * 1024;
/// A standby that takes no longer than this is nothing to speak of.
const STANDBY_PATIENCE: Duration = Duration::from_secs(1);

/// What the threads told.
struct News {
    failure: Option<Failure>,
    /// What Kafka is waited for with.
    trouble: Option<Trouble>,
    log: Vec<String>,
    aside: Option<Box<Aside>>,
    acknowledged: u64,
    /// Of the newest acknowledged transaction: where its commit record begins and ends.
    acknowledged_lsn: (u64, u64),
    durable: Option<Durable>,
    figures: Figures,
}

impl Session<'_> {
    /// Moves the slot and the figures along. Says if the session is over.
    pub(super) fn look_around(&mut self, reading: Option<&Reading>) -> Option<End> {
        interrupts();
        self.sender.launcher.tend(self.sender.shared);
        // A reload for the sake of other settings must not cost a new connection and copies of events.
        if reload_if_asked() && read_settings().ok().as_ref() != Some(&self.settings) {
            return Some(End::Again);
        }
        match self.sender.take_orders() {
            Ok(changed) => self.orders_changed |= changed,
            Err(trouble) => return Some(End::Stay(State::Halted, trouble)),
        }
        self.sender.tend();
        let mut news = self.news();
        for line in &news.log {
            pgrx::log!("{line}");
        }
        if let Some(aside) = news.aside.take()
            && let Err(trouble) = self.put_aside(*aside)
        {
            return Some(End::Stay(State::Halted, trouble));
        }
        if let Some(durable) = &news.durable
            && self.is_worth_remembering(durable)
        {
            self.remember(durable.to_local());
        }
        if news.trouble.is_some()
            && let Some(end) = self.sender.lost_wal()
        {
            return Some(end);
        }
        let shared = self.sender.shared;
        if news.acknowledged > 0 {
            let (commit_lsn, _) = news.acknowledged_lsn;
            shared.sent_lsn.store(commit_lsn, Ordering::Release);
        }
        // Whoever is woken below finds what was counted.
        news.figures
            .publish(&mut self.rates, &self.sender.counted, shared);
        if let Some(reading) = reading {
            self.show(reading, &news);
        } else if let Some(trouble) = &news.trouble {
            self.sender
                .describe(State::WaitingForKafka, "Kafka", Some(trouble));
        }
        let unacknowledged_events = news.figures.unacknowledged_events;
        let failure = news.failure?;
        Some(self.sender.after(failure, unacknowledged_events))
    }

    fn news(&self) -> News {
        self.board.with_facts(|facts| News {
            failure: facts.failure.take(),
            trouble: facts.waits_with().cloned(),
            log: std::mem::take(&mut facts.log),
            aside: facts.aside_wanted.take(),
            acknowledged: facts.acknowledged,
            acknowledged_lsn: facts.acknowledged_lsn,
            durable: facts.durable.clone(),
            figures: Figures::of(facts),
        })
    }

    /// Shows how far reading and sending are, and wakes whoever waits for that.
    fn show(&mut self, reading: &Reading, news: &News) {
        let shared = self.sender.shared;
        let (_, flush_lsn) = flushed();
        let read_lsn = reading.reader.position();
        if self.sender.is_past_gap(read_lsn) {
            self.sender.gap_is_over();
        }
        shared.read_lsn.store(read_lsn, Ordering::Relaxed);
        let all_acknowledged = news.acknowledged == self.sent;
        let done_lsn = match all_acknowledged {
            true => read_lsn,
            false => news.acknowledged_lsn.1,
        };
        let is_all = all_acknowledged && done_lsn >= shared.wake_lsn.load(Ordering::SeqCst);
        let unsent_since = news.figures.oldest_unacknowledged_us;
        if is_all || unsent_since != 0 {
            shared.unsent_since.store(unsent_since, Ordering::Relaxed);
        }
        shared.is_reading.store(true, Ordering::Relaxed);
        if done_lsn > shared.done_lsn.swap(done_lsn, Ordering::AcqRel) {
            shared.announce();
        }
        let (open, oldest_us, oldest_gid) = reading.assembly.open_transactions();
        self.sender.describe_oldest(oldest_gid);
        shared.open_transactions.store(open, Ordering::Relaxed);
        shared
            .oldest_transaction
            .store(oldest_us, Ordering::Relaxed);
        let prepared = reading.assembly.prepared_transactions();
        shared.prepared.store(prepared, Ordering::Relaxed);
        let withheld = self
            .withheld
            .filter(|(since, _)| since.elapsed() >= STANDBY_PATIENCE);
        let (state, waiting_for) = match (&news.trouble, withheld) {
            (Some(_), _) => (State::WaitingForKafka, "Kafka"),
            (None, Some((_, waiting_for))) => (State::WaitingForStandby, waiting_for),
            _ if flush_lsn.saturating_sub(read_lsn) > CATCHING_UP_BYTES => (State::CatchingUp, ""),
            _ => (State::Streaming, ""),
        };
        let trouble = news.trouble.as_ref();
        self.sender.describe(state, waiting_for, trouble);
    }

    fn is_worth_remembering(&self, durable: &Durable) -> bool {
        let Some(known) = &self.sender.remembered else {
            return true;
        };
        let is_due = self
            .remembered_at
            .is_none_or(|at| at.elapsed() >= REMEMBER_EVERY);
        let is_newer = known.rank() < durable.rank() || known.restart_lsn < durable.restart_lsn;
        let is_far = durable.restart_lsn >= known.restart_lsn + RECORD_EVERY_BYTES;
        is_far || (is_newer && is_due)
    }

    /// Writes down what is durable in Kafka.
    pub(super) fn remember(&mut self, known: LocalPosition) {
        self.remembered_at = Some(Instant::now());
        if let Err(error) = known.write() {
            pgrx::log!("pg_cdc: what is known of the position cannot be written: {error}");
            return;
        }
        if let Some(slot) = self.sender.slot.as_mut() {
            slot.advance(self.sender.shared, known.restart_lsn);
        }
        self.sender.remembered = Some(known);
    }

    /// Notes for good that a topic is put aside, says so, and lets the Kafka thread go on without it.
    fn put_aside(&mut self, aside: Aside) -> Result<(), Trouble> {
        self.sender.put_aside(aside)?;
        let asides = &self.sender.orders.asides;
        self.board.with_facts(|facts| facts.put_aside(asides));
        self.board.kafka_wake.signal();
        Ok(())
    }
}
