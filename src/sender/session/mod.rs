//! One session: the threads are made, the WAL is read for them from the position on, until something ends it.

mod delivery;
mod figures;
mod idle;
mod look_around;
pub(super) mod opening;
mod reading;
mod stream;
pub(super) mod threads;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use change::position::{Position, lsn_text};
use change::wire::WireError;
use crossbeam_channel::Sender as Channel;
use shipper::board::Board;
use shipper::files::orders::{Hold, Skip};
use shipper::files::source::Source;
use shipper::kafka::settings::KafkaSettings;
use shipper::progress::{Progress, Progresses};
use shipper::starting_point::{Server, StartingPoint};
use shipper::trouble;
use shipper::work::{Known, Work};

use crate::sender::main_thread::{End, Sender, TICK};
use crate::sender::session::figures::Rates;
use crate::sender::session::reading::Reading;
use crate::sender::sleep::WakeSet;
use crate::sender::wal::reader::flushed;
use crate::sender::wal::slot::Slot;
use crate::shared::State;

/// One run of the two threads, and the reading for them.
pub(crate) struct Session<'a> {
    sender: &'a mut Sender,
    source: &'a Source,
    board: Arc<Board>,
    wake_set: WakeSet,
    work: Channel<Work>,
    progresses: Arc<Progresses>,
    settings: KafkaSettings,
    rates: Rates,
    /// Transactions given to the Kafka thread.
    sent: u64,
    previous_lsn: Option<u64>,
    /// Events produced when memory was last given back.
    trimmed_events: u64,
    /// Newest restart point that was offered for the position.
    recorded_restart_lsn: u64,
    /// Since when the session is to end, by order.
    ending_since: Option<Instant>,
    /// Orders came that only a new session takes up.
    orders_changed: bool,
    /// Number of the progress that says that all is acknowledged.
    last_progress: Option<u64>,
    remembered_at: Option<Instant>,
    /// The end of the WAL when there was last nothing to read.
    quiet_lsn: u64,
    /// Since when WAL is held back, and what for.
    withheld: Option<(Instant, &'static str)>,
}

/// Stops the delivery of a transaction.
enum Interrupted {
    End(End),
    Wire(WireError),
}

impl Interrupted {
    fn end(self) -> End {
        match self {
            Interrupted::End(end) => end,
            Interrupted::Wire(WireError::OutOfMemory) => {
                End::Stay(State::Halted, trouble::out_of_memory())
            }
            Interrupted::Wire(error) => {
                End::Stay(State::Halted, trouble::undecodable(&error.to_string()))
            }
        }
    }
}

impl From<WireError> for Interrupted {
    fn from(error: WireError) -> Self {
        Interrupted::Wire(error)
    }
}

impl<'a> Session<'a> {
    /// A session whose threads are being started.
    pub(crate) fn new(
        sender: &'a mut Sender,
        source: &'a Source,
        board: Arc<Board>,
        work: Channel<Work>,
        progresses: Arc<Progresses>,
        settings: KafkaSettings,
    ) -> Session<'a> {
        Session {
            sender,
            source,
            wake_set: WakeSet::new(Arc::clone(&board)),
            board,
            work,
            progresses,
            settings,
            rates: Rates::new(),
            sent: 0,
            previous_lsn: None,
            trimmed_events: 0,
            recorded_restart_lsn: 0,
            ending_since: None,
            orders_changed: false,
            last_progress: None,
            remembered_at: None,
            quiet_lsn: 0,
            withheld: None,
        }
    }

    /// Until something ends it.
    pub(crate) fn run(&mut self) -> End {
        let position = match self.wait_for_position() {
            Ok(position) => position,
            Err(end) => return end,
        };
        let (timeline, flush_lsn) = flushed();
        self.sender
            .shared
            .timeline
            .store(timeline, Ordering::Relaxed);
        let server = Server {
            source_id: &self.source.source_id,
            generation: self.source.generation,
            timeline,
            flush_lsn,
            slot_lsn: self.sender.slot.as_ref().map_or(0, Slot::restart_lsn),
            remembered: self.sender.remembered.as_ref(),
        };
        let start = match StartingPoint::after(position.as_deref(), &server) {
            Ok(start) => start,
            Err(trouble) => return End::Stay(State::Halted, trouble),
        };
        let (start_lsn, done_lsn) = (start.start_lsn, start.done_lsn);
        self.previous_lsn = (done_lsn != 0 && start.part.is_none()).then_some(done_lsn);
        self.sender
            .shared
            .sent_lsn
            .store(done_lsn, Ordering::Release);
        pgrx::log!(
            "pg_cdc: sender reads from {} on timeline {timeline}",
            lsn_text(start_lsn)
        );
        if let Some(slot) = self.sender.slot.as_mut() {
            slot.hold_from(self.sender.shared, start_lsn);
        }
        if let Err(interrupted) = self.tell_what_is_known(position, start, timeline) {
            return interrupted.end();
        }
        let most_cached_bytes = self.settings.memory_bytes / 4;
        let mut reading = Reading::new(start_lsn, done_lsn, timeline, most_cached_bytes);
        self.stream(&mut reading)
    }

    /// The position in Kafka, if there is one.
    fn wait_for_position(&mut self) -> Result<Option<Box<Position>>, End> {
        loop {
            if let Some(end) = self.look_around(None) {
                return Err(end);
            }
            // Nothing is on its way yet.
            if self.orders_changed || matches!(self.sender.orders.hold, Some(Hold::Pause { .. })) {
                return Err(End::Again);
            }
            if let Some((position, _epoch)) = self.board.with_facts(|facts| facts.start.take()) {
                return Ok(position);
            }
            self.wake_set.sleep(TICK);
        }
    }

    /// Tells the Kafka thread what is known of topics, and claims the position for this sender's epoch.
    fn tell_what_is_known(
        &mut self,
        position: Option<Box<Position>>,
        start: StartingPoint,
        timeline: u32,
    ) -> Result<(), Interrupted> {
        // A topic whose events were given up, and perhaps the topic itself, begins anew.
        let skips = self.sender.orders.skips.iter();
        let skips: Vec<Skip> = skips
            .filter(|skip| skip.up_to >= start.done_lsn)
            .cloned()
            .collect();
        let forget: Vec<String> = skips.iter().map(|skip| skip.topic.clone()).collect();
        let mut known = Known {
            ends: position.map(|position| position.ends).unwrap_or_default(),
            skips,
            asides: self.sender.orders.asides.clone(),
            smaller_in: self.sender.smaller_in.clone(),
            part: start.part,
        };
        let asides = &self.sender.orders.asides;
        self.board.with_facts(|facts| facts.put_aside(asides));
        known.ends.retain(|topic, _| !forget.contains(topic));
        // Gives the heartbeat something to repeat as well.
        self.recorded_restart_lsn = start.start_lsn;
        self.progresses.offer(Progress {
            timeline,
            restart_lsn: start.start_lsn,
            done: None,
            forget,
        });
        self.push(Work::Known(Box::new(known)), 0)
    }

    /// Adds this session's figures to those of the ones before.
    pub(crate) fn count(&mut self) {
        let shared = self.sender.shared;
        shared.is_reading.store(false, Ordering::Relaxed);
        let (events, bytes, transactions, acknowledged_lsn) = self.board.with_facts(|facts| {
            let (lsn, _) = facts.acknowledged_lsn;
            (facts.events, facts.bytes, facts.transactions, lsn)
        });
        self.sender.restarts.session_acknowledged(acknowledged_lsn);
        let counted = &mut self.sender.counted;
        counted.events += events;
        counted.bytes += bytes;
        counted.transactions += transactions;
    }
}
