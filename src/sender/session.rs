//! One session: the threads are made, the WAL is read for them from the position on, until something ends it.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use change::event::commit::Commit;
use change::memory::copy_of;
use change::position::lsn_text;
use change::trouble::Trouble;
use change::wal::assembly::{Assembly, ChunkPlace, Committed, Outcome};
use change::wal::message;
use change::wal::message::MessageError;
use change::wire::WireError;
use crossbeam_channel::{Sender as Channel, TrySendError};
use pgrx::pg_sys;
use shipper::board::Board;
use shipper::files::local_position::LocalPosition;
use shipper::files::orders::{Aside, Hold, Skip};
use shipper::files::source::Source;
use shipper::kafka::settings::KafkaSettings;
use shipper::progress::{Progress, Progresses};
use shipper::starting_point::{Server, StartingPoint};
use shipper::trouble::{self, incomplete};
use shipper::work::{Beginning, Known, Work};

use super::kafka_settings::read_settings;
use super::main_thread::{End, IDLE_TICK, Sender, TICK};
use super::sleep::reload_if_asked;
use super::sleep::{WakeSet, interrupts};
use super::slot::Slot;
use super::standby::{self, Confirmed};
use super::wal_event::{ThisServer, event_of, our_message};
use super::wal_reader::{WalError, WalReader, flushed};
use crate::cluster_secret::message_key;
use crate::shared::State;

/// The restart point is recorded when this much WAL without our changes has gone by.
const RECORD_EVERY_BYTES: u64 = 16 * 1024 * 1024;
/// A commit that finds this much more WAL wakes the sender, though nothing of it is captured.
const LOOK_EVERY_BYTES: u64 = RECORD_EVERY_BYTES / 2;
/// What the server remembers of the position is written no more often than this.
const REMEMBER_EVERY: Duration = Duration::from_secs(5);
/// Behind the end of the WAL by more than this, the sender is catching up.
const CATCHING_UP_BYTES: u64 = 16 * 1024 * 1024;
/// Events after which an idle sender gives memory back to the system.
const TRIM_EVERY_EVENTS: u64 = 20_000;
/// Records taken in before the latch and the board are looked at again; others are passed over in between.
const RECORDS_PER_ROUND: usize = 1_000;
/// How often it is looked whether a standby has confirmed more: soon at first, then more rarely.
const STANDBY_LOOK_MIN: Duration = Duration::from_millis(2);
const STANDBY_LOOK_MAX: Duration = Duration::from_millis(100);
/// A standby that takes no longer than this is nothing to speak of.
const STANDBY_PATIENCE: Duration = Duration::from_secs(1);
/// How long a session that is to end waits for what is on its way: what is not acknowledged by then is sent again.
const FINISH_TIMEOUT: Duration = Duration::from_secs(10);

/// Rates over the last ten seconds.
struct Rates {
    samples: std::collections::VecDeque<(Instant, u64, u64)>,
}

impl Rates {
    const WINDOW: Duration = Duration::from_secs(10);

    fn new() -> Rates {
        Rates {
            samples: std::collections::VecDeque::new(),
        }
    }

    /// Events and bytes per second, in thousandths.
    fn update(&mut self, events: u64, bytes: u64) -> (u64, u64) {
        let now = Instant::now();
        if self
            .samples
            .back()
            .is_none_or(|(at, ..)| now - *at >= Duration::from_millis(500))
        {
            self.samples.push_back((now, events, bytes));
        }
        while self.samples.len() > 2
            && self
                .samples
                .front()
                .is_some_and(|(at, ..)| now - *at > Self::WINDOW)
        {
            self.samples.pop_front();
        }
        match self.samples.front() {
            Some((at, first_events, first_bytes)) if now > *at => {
                let seconds = (now - *at).as_secs_f64();
                let rate =
                    |newer: u64, older: u64| ((newer - older) as f64 / seconds * 1000.0) as u64;
                (rate(events, *first_events), rate(bytes, *first_bytes))
            }
            _ => (0, 0),
        }
    }
}

/// One run of the two threads, and the reading for them.
pub(crate) struct Session<'a> {
    pub sender: &'a mut Sender,
    pub source: &'a Source,
    pub board: Arc<Board>,
    pub wake_set: WakeSet,
    pub work: Channel<Work>,
    pub progresses: Arc<Progresses>,
    pub settings: KafkaSettings,
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
        let position = loop {
            if let Some(end) = self.look_around(None) {
                return end;
            }
            // Nothing is on its way yet.
            if self.orders_changed || matches!(self.sender.orders.hold, Some(Hold::Pause { .. })) {
                return End::Again;
            }
            if let Some((position, _epoch)) = self.board.with_facts(|facts| facts.start.take()) {
                break position;
            }
            self.wake_set.sleep(TICK);
        };
        let (timeline, flush_lsn) = flushed();
        self.sender
            .shared
            .timeline
            .store(timeline, Ordering::Relaxed);
        let slot_lsn = self.sender.slot.as_ref().map_or(0, Slot::restart_lsn);
        let server = Server {
            source_id: &self.source.source_id,
            generation: self.source.generation,
            timeline,
            flush_lsn,
            slot_lsn,
            remembered: self.sender.remembered.as_ref(),
        };
        let StartingPoint {
            start_lsn,
            done_lsn,
            part,
        } = match StartingPoint::after(position.as_deref(), &server) {
            Ok(found) => found,
            Err(trouble) => return End::Stay(State::Halted, trouble),
        };
        self.previous_lsn = (done_lsn != 0 && part.is_none()).then_some(done_lsn);
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
        // A topic whose events were given up, and perhaps the topic itself, begins anew.
        let skips = self.sender.orders.skips.iter();
        let skips: Vec<Skip> = skips
            .filter(|skip| skip.up_to >= done_lsn)
            .cloned()
            .collect();
        let forget: Vec<String> = skips.iter().map(|skip| skip.topic.clone()).collect();
        let mut known = Known {
            ends: position.map(|position| position.ends).unwrap_or_default(),
            skips,
            asides: self.sender.orders.asides.clone(),
            smaller_in: self.sender.smaller_in.clone(),
            part,
        };
        let asides = &self.sender.orders.asides;
        self.board.with_facts(|facts| facts.put_aside(asides));
        known.ends.retain(|topic, _| !forget.contains(topic));
        // Claims the position for this sender's epoch, and gives the heartbeat something to repeat.
        self.recorded_restart_lsn = start_lsn;
        self.progresses.offer(Progress {
            timeline,
            restart_lsn: start_lsn,
            done: None,
            forget,
        });
        match self.push(Work::Known(Box::new(known)), 0) {
            Ok(()) => self.stream(start_lsn, done_lsn, timeline),
            Err(interrupted) => interrupted.end(),
        }
    }

    fn stream(&mut self, start_lsn: u64, done_lsn: u64, timeline: u32) -> End {
        let mut reader = WalReader::new(start_lsn);
        let mut again: Option<WalReader> = None;
        let max_cached_bytes = self.settings.memory_bytes / 4;
        let mut assembly = Assembly::new(message_key(), max_cached_bytes);
        self.sender.obey();
        loop {
            let (_, flush_lsn) = flushed();
            self.limit(&mut reader, flush_lsn);
            let stopping = self.orders_changed || self.sender.orders.wants_stop(reader.position());
            let mut idle = stopping;
            for _ in 0..if stopping { 0 } else { RECORDS_PER_ROUND } {
                let outcome = match reader.next() {
                    Ok(Some(record)) => match event_of(&record, &assembly) {
                        Some(event) => assembly.take(event, &ThisServer),
                        None => Outcome::Nothing,
                    },
                    Ok(None) => {
                        idle = true;
                        break;
                    }
                    Err(error) => match self.sender.orders.gap_at(error.lsn) {
                        // Somebody has accepted that it is gone; with it whatever was open there.
                        Some(gap) if error.missing => {
                            pgrx::log!(
                                "pg_cdc: sender goes on at {}, behind the accepted gap",
                                lsn_text(gap.to)
                            );
                            reader.seek(gap.to);
                            assembly = Assembly::new(message_key(), max_cached_bytes);
                            break;
                        }
                        _ => return self.unreadable(&error),
                    },
                };
                match outcome {
                    Outcome::Nothing => {}
                    Outcome::Rejected(rejected) => {
                        self.sender
                            .shared
                            .rejected_messages
                            .fetch_add(1, Ordering::Relaxed);
                        self.sender.rejections.tell(&rejected);
                    }
                    Outcome::Committed(committed) if committed.lsn <= done_lsn => {}
                    Outcome::Committed(committed) => {
                        if let Err(interrupted) = self.deliver(*committed, &mut again, timeline) {
                            return interrupted.end();
                        }
                    }
                    Outcome::Incomplete {
                        xid8, first_lsn, ..
                    } if self.sender.orders.is_lost(first_lsn) => pgrx::log!(
                        "pg_cdc: transaction {xid8} began in the accepted gap, at {}, and is not sent",
                        lsn_text(first_lsn)
                    ),
                    Outcome::Incomplete {
                        xid8,
                        found,
                        expected,
                        ..
                    } => {
                        return End::Stay(
                            State::Halted,
                            incomplete(xid8, u64::from(found), u64::from(expected)),
                        );
                    }
                }
            }
            self.sender.rejections.tend();
            // What was read is done before anybody sleeps: cdc_wait may be waiting for just that.
            if let Some(end) = self.look_around(Some((&reader, &assembly))) {
                return end;
            }
            if stopping && self.has_ended(&reader, &assembly, timeline) {
                return End::Again;
            }
            if idle {
                self.idle(&reader, &assembly, timeline, flush_lsn);
            }
        }
    }

    /// Lets the reader go as far as synchronous standbys are.
    fn limit(&mut self, reader: &mut WalReader, flush_lsn: u64) {
        let (limit_lsn, waiting_for) = match standby::confirmed() {
            Confirmed::NotNeeded => (u64::MAX, ""),
            Confirmed::UpTo(lsn) => (lsn, "a synchronous standby"),
            Confirmed::NoneNamed => (
                0,
                "synchronous_standby_names to be set, or cdc.wait_for_standby = auto",
            ),
        };
        reader.limit(limit_lsn);
        self.withheld = if limit_lsn < flush_lsn {
            let since = self.withheld.map_or_else(Instant::now, |(since, _)| since);
            Some((since, waiting_for))
        } else {
            None
        };
    }

    /// Whether everything that was taken on is acknowledged, and recorded so; or cannot be for too long.
    fn has_ended(&mut self, reader: &WalReader, assembly: &Assembly, timeline: u32) -> bool {
        let since = *self.ending_since.get_or_insert_with(Instant::now);
        let (all_acknowledged, durable) = self.board.with_facts(|facts| {
            let durable = facts.durable.as_ref().map_or(0, |durable| durable.number);
            (facts.acknowledged == self.sent, durable)
        });
        if all_acknowledged && self.last_progress.is_none() {
            self.last_progress = Some(self.progresses.offer(Progress {
                timeline,
                restart_lsn: assembly.restart_lsn(reader.position()),
                done: None,
                forget: Vec::new(),
            }));
        }
        let done = self.last_progress.is_some_and(|last| durable >= last);
        if let Some(Hold::Drain { done: false, .. }) = self.sender.orders.hold {
            return done && self.sender.note_drained();
        }
        done || since.elapsed() > FINISH_TIMEOUT
    }

    /// All that was flushed up to `read_to_lsn` is read: flush what was announced, record how far reading is, and sleep.
    fn idle(&mut self, reader: &WalReader, assembly: &Assembly, timeline: u32, read_to_lsn: u64) {
        let shared = self.sender.shared;
        self.record_progress(reader, assembly, timeline);
        self.give_memory_back();
        if self.board.is_gathering() {
            // Nobody takes more work now: commits need not wake this thread, the Kafka thread will.
            self.wake_set.sleep(TICK);
            return;
        }
        if let Some((since, _)) = self.withheld {
            // Nothing tells of a standby's confirmation.
            self.wake_set
                .sleep((since.elapsed() / 10).clamp(STANDBY_LOOK_MIN, STANDBY_LOOK_MAX));
            return;
        }
        shared.listen(true);
        // From here on every commit wakes this thread; what came before is seen now.
        let wanted_lsn = shared.wake_lsn.load(Ordering::SeqCst);
        let (_, flush_lsn) = flushed();
        if wanted_lsn > flush_lsn {
            // An asynchronous commit: the WAL writer would take its time.
            // SAFETY: the WAL up to there was inserted by whoever announced it.
            unsafe { pg_sys::XLogFlush(wanted_lsn) };
        } else if flush_lsn == read_to_lsn {
            // Flushed meanwhile by others: the next commit announces itself, and the tick is the net below.
            let is_quiet = flush_lsn == self.quiet_lsn && assembly.prepared_transactions() == 0;
            self.quiet_lsn = flush_lsn;
            let look_lsn = flush_lsn + LOOK_EVERY_BYTES;
            shared.look_lsn.store(look_lsn, Ordering::Relaxed);
            self.wake_set.sleep(if is_quiet { IDLE_TICK } else { TICK });
        }
        shared.listen(false);
    }

    /// After a load, the allocator keeps what the queues needed: an idle sender is small again.
    fn give_memory_back(&mut self) {
        let events = self
            .board
            .with_facts(|facts| match facts.unacknowledged_events {
                0 => facts.events,
                _ => self.trimmed_events,
            });
        if events - self.trimmed_events >= TRIM_EVERY_EVENTS {
            self.trimmed_events = events;
            // SAFETY: a plain call of the C library, which other threads may use at the same time.
            #[cfg(target_env = "gnu")]
            unsafe {
                libc::malloc_trim(0);
            }
        }
    }

    /// Records the restart point where much WAL without our changes has gone by, so that the slot can follow.
    fn record_progress(&mut self, reader: &WalReader, assembly: &Assembly, timeline: u32) {
        let restart_lsn = assembly.restart_lsn(reader.position());
        if restart_lsn < self.recorded_restart_lsn + RECORD_EVERY_BYTES {
            return;
        }
        let (all_acknowledged, acknowledged_lsn, waits, durable) = self.board.with_facts(|facts| {
            (
                facts.acknowledged == self.sent,
                facts.acknowledged_lsn.0,
                facts.trouble.is_some(),
                facts.durable.clone(),
            )
        });
        if !all_acknowledged {
            return;
        }
        self.recorded_restart_lsn = restart_lsn;
        self.progresses.offer(Progress {
            timeline,
            restart_lsn,
            done: None,
            forget: Vec::new(),
        });
        // Kafka cannot take it down now. That there is nothing to send up to here is as well known on this server.
        if let Some(durable) = durable.filter(|_| waits) {
            self.remember(LocalPosition {
                acknowledged_lsn: acknowledged_lsn.max(durable.commit_lsn),
                restart_lsn,
                ..durable.to_local()
            });
        }
    }

    /// Hands a transaction to the Kafka thread, waiting where its queue is full.
    fn deliver(
        &mut self,
        committed: Committed,
        again: &mut Option<WalReader>,
        timeline: u32,
    ) -> Result<(), Interrupted> {
        let manifest = committed.manifest;
        if manifest.rows == 0 {
            return Ok(());
        }
        let commit = Commit {
            nonce: committed.nonce,
            xid8: committed.xid8,
            database_oid: committed.database_oid,
            generation: self.source.generation,
            timeline,
            lsn: committed.lsn,
            previous_lsn: self.previous_lsn,
            commit_us: committed.commit_us,
            event_count: manifest.rows + manifest.key_changes,
        };
        self.previous_lsn = Some(committed.lsn);
        self.recorded_restart_lsn = committed.restart_lsn;
        self.push(
            Work::Begin(Box::new(Beginning {
                commit,
                end_lsn: committed.end_lsn,
                restart_lsn: committed.restart_lsn,
            })),
            0,
        )?;
        let needs_sorting = manifest.unordered || (manifest.key_changes > 0 && manifest.rows > 1);
        if needs_sorting {
            self.deliver_sorted(&committed.chunks, again)?;
        } else {
            for place in committed.chunks {
                let bytes = match place.bytes {
                    Some(bytes) => bytes,
                    None => self.read_again(&place, again)?,
                };
                let len = bytes.len();
                self.push(Work::Chunk(bytes), len)?;
            }
        }
        self.sent += 1;
        self.push(Work::End, 0)
    }

    fn deliver_sorted(
        &mut self,
        chunks: &[ChunkPlace],
        again: &mut Option<WalReader>,
    ) -> Result<(), Interrupted> {
        // The newest bodies, as far as memory allows.
        let limit = self.settings.memory_bytes / 4;
        let mut cache: std::collections::VecDeque<(u32, Rc<Vec<u8>>)> =
            std::collections::VecDeque::new();
        let mut cached_bytes = 0;
        let session = std::cell::RefCell::new(self);
        change::wal::order::sort(
            chunks.len() as u32,
            limit,
            &mut |index| {
                if let Some((_, body)) = cache.iter().find(|(cached, _)| *cached == index) {
                    return Ok(Rc::clone(body));
                }
                let place = &chunks[index as usize];
                let read;
                let sealed = match &place.bytes {
                    Some(bytes) => bytes,
                    None => {
                        read = session.borrow_mut().read_again(place, again)?;
                        &read
                    }
                };
                let mut body = Vec::new();
                let opened = message::read(sealed).and_then(|chunk| chunk.body_into(&mut body));
                opened.map_err(|error| {
                    Interrupted::Wire(match error {
                        MessageError::OutOfMemory => WireError::OutOfMemory,
                        _ => WireError::Invalid("chunk body"),
                    })
                })?;
                let body = Rc::new(body);
                cached_bytes += body.len();
                while cached_bytes > limit
                    && let Some((_, oldest)) = cache.pop_front()
                {
                    cached_bytes -= oldest.len();
                }
                cache.push_back((index, Rc::clone(&body)));
                Ok(body)
            },
            &mut |body| {
                let len = body.len();
                session.borrow_mut().push(Work::Body(body), len)
            },
        )
    }

    /// Reads a chunk's record again, for memory was short when it came by.
    fn read_again(
        &mut self,
        place: &ChunkPlace,
        again: &mut Option<WalReader>,
    ) -> Result<Vec<u8>, Interrupted> {
        let reader = again.get_or_insert_with(|| {
            let from = lsn_text(place.lsn);
            pgrx::debug1!("pg_cdc: memory is short, a transaction is read again from {from}");
            WalReader::new(place.lsn)
        });
        reader.seek(place.lsn);
        match reader.next() {
            Ok(Some(record)) => match our_message(record.data) {
                Some((_, _, bytes)) => {
                    copy_of(bytes).ok_or(Interrupted::Wire(WireError::OutOfMemory))
                }
                None => Err(Interrupted::Wire(WireError::Invalid("record"))),
            },
            Ok(None) => Err(Interrupted::Wire(WireError::Truncated)),
            Err(error) => Err(Interrupted::End(self.unreadable(&error))),
        }
    }

    /// Puts work into the channel; while it is full, or too many bytes wait in it, looks after everything else.
    fn push(&mut self, work: Work, bytes: usize) -> Result<(), Interrupted> {
        let limit = self.settings.memory_bytes / 4;
        let mut work = work;
        let mut asked = false;
        loop {
            let queued = self.board.queued_bytes.load(Ordering::Acquire);
            if queued == 0 || queued + bytes <= limit {
                self.board.queued_bytes.fetch_add(bytes, Ordering::AcqRel);
                match self.work.try_send(work) {
                    Ok(()) => {
                        self.board.work_arrived();
                        return Ok(());
                    }
                    Err(TrySendError::Full(back) | TrySendError::Disconnected(back)) => {
                        self.board.queued_bytes.fetch_sub(bytes, Ordering::AcqRel);
                        work = back;
                    }
                }
            }
            // A transaction is given to Kafka whole, if Kafka takes it within a moment.
            let must_leave =
                self.orders_changed || matches!(self.sender.orders.hold, Some(Hold::Pause { .. }));
            if must_leave
                && self.ending_since.get_or_insert_with(Instant::now).elapsed() > FINISH_TIMEOUT
            {
                return Err(Interrupted::End(End::Again));
            }
            // Ask first, then look once more: so no answer is missed.
            if !asked {
                self.board.room_wanted.ask();
                asked = true;
                continue;
            }
            if let Some(end) = self.look_around(None) {
                return Err(Interrupted::End(end));
            }
            self.wake_set.sleep(TICK);
            asked = false;
        }
    }

    /// Everything that may happen at any time: interrupts, settings, what the threads told; moves the slot and the
    /// figures along. Says if the session is over.
    fn look_around(&mut self, reading: Option<(&WalReader, &Assembly)>) -> Option<End> {
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
        let shared = self.sender.shared;
        let (failure, trouble, log, acknowledged, acknowledged_lsn, durable, figures) =
            self.board.with_facts(|facts| {
                (
                    facts.failure.take(),
                    facts.waits_with().cloned(),
                    std::mem::take(&mut facts.log),
                    facts.acknowledged,
                    facts.acknowledged_lsn,
                    facts.durable.clone(),
                    Figures {
                        events: facts.events,
                        bytes: facts.bytes,
                        transactions: facts.transactions,
                        unacknowledged_events: facts.unacknowledged_events,
                        oldest_unacknowledged_us: facts.oldest_unacknowledged_us,
                        topics: facts.topics,
                        brokers_up: facts.brokers_up,
                        brokers_down: facts.brokers_down,
                        throttle_ms: facts.throttle_ms,
                    },
                )
            });
        for line in log {
            pgrx::log!("{line}");
        }
        let aside = self.board.with_facts(|facts| facts.aside_wanted.take());
        if let Some(aside) = aside
            && let Err(trouble) = self.put_aside(*aside)
        {
            return Some(End::Stay(State::Halted, trouble));
        }
        if let Some(durable) = durable {
            let is_due = self
                .remembered_at
                .is_none_or(|at| at.elapsed() >= REMEMBER_EVERY);
            let is_worth_it = self.sender.remembered.as_ref().is_none_or(|known| {
                let is_newer =
                    known.rank() < durable.rank() || known.restart_lsn < durable.restart_lsn;
                let is_far = durable.restart_lsn >= known.restart_lsn + RECORD_EVERY_BYTES;
                is_far || (is_newer && is_due)
            });
            if is_worth_it {
                self.remember(durable.to_local());
            }
        }
        if trouble.is_some()
            && let Some(end) = self.sender.lost_wal()
        {
            return Some(end);
        }
        let all_acknowledged = acknowledged == self.sent;
        if acknowledged > 0 {
            shared.sent_lsn.store(acknowledged_lsn.0, Ordering::Release);
        }
        // Whoever is woken below finds what was counted.
        self.publish(&figures);
        let (_, flush_lsn) = flushed();
        if let Some((reader, assembly)) = reading {
            let read_lsn = reader.position();
            if self.sender.is_past_gap(read_lsn) {
                self.sender.gap_is_over();
            }
            shared.read_lsn.store(read_lsn, Ordering::Relaxed);
            let done_lsn = if all_acknowledged {
                read_lsn
            } else {
                acknowledged_lsn.1
            };
            let is_all = all_acknowledged && done_lsn >= shared.wake_lsn.load(Ordering::SeqCst);
            if is_all || figures.oldest_unacknowledged_us != 0 {
                let unsent_since = figures.oldest_unacknowledged_us;
                shared.unsent_since.store(unsent_since, Ordering::Relaxed);
            }
            shared.is_reading.store(true, Ordering::Relaxed);
            if done_lsn > shared.done_lsn.swap(done_lsn, Ordering::AcqRel) {
                shared.announce();
            }
            let (open, oldest_us, oldest_gid) = assembly.open_transactions();
            self.sender.describe_oldest(oldest_gid);
            shared.open_transactions.store(open, Ordering::Relaxed);
            shared
                .oldest_transaction
                .store(oldest_us, Ordering::Relaxed);
            shared
                .prepared
                .store(assembly.prepared_transactions(), Ordering::Relaxed);
            let withheld = self
                .withheld
                .filter(|(since, _)| since.elapsed() >= STANDBY_PATIENCE);
            let state = match &trouble {
                Some(_) => State::WaitingForKafka,
                None if withheld.is_some() => State::WaitingForStandby,
                None if flush_lsn.saturating_sub(read_lsn) > CATCHING_UP_BYTES => State::CatchingUp,
                None => State::Streaming,
            };
            self.sender.describe(
                state,
                match (&trouble, withheld) {
                    (Some(_), _) => "Kafka",
                    (None, Some((_, waiting_for))) => waiting_for,
                    (None, None) => "",
                },
                trouble.as_ref(),
            );
        } else if let Some(trouble) = &trouble {
            self.sender
                .describe(State::WaitingForKafka, "Kafka", Some(trouble));
        }
        failure.map(|failure| self.sender.after(failure, figures.unacknowledged_events))
    }

    /// Notes for good that a topic is put aside, says so, and lets the Kafka thread go on without it.
    fn put_aside(&mut self, aside: Aside) -> Result<(), Trouble> {
        self.sender.put_aside(aside)?;
        let asides = &self.sender.orders.asides;
        self.board.with_facts(|facts| facts.put_aside(asides));
        self.board.kafka_wake.signal();
        Ok(())
    }

    fn publish(&mut self, figures: &Figures) {
        let (shared, counted) = (self.sender.shared, &self.sender.counted);
        let (events_rate, bytes_rate) = self.rates.update(figures.events, figures.bytes);
        shared
            .events
            .store(counted.events + figures.events, Ordering::Relaxed);
        shared
            .bytes
            .store(counted.bytes + figures.bytes, Ordering::Relaxed);
        shared.transactions.store(
            counted.transactions + figures.transactions,
            Ordering::Relaxed,
        );
        shared
            .events_per_second_milli
            .store(events_rate, Ordering::Relaxed);
        shared
            .bytes_per_second_milli
            .store(bytes_rate, Ordering::Relaxed);
        shared
            .lag_events
            .store(figures.unacknowledged_events, Ordering::Relaxed);
        shared
            .lag_since
            .store(figures.oldest_unacknowledged_us, Ordering::Relaxed);
        shared.topics.store(figures.topics, Ordering::Relaxed);
        shared
            .brokers_up
            .store(figures.brokers_up, Ordering::Relaxed);
        shared
            .brokers_down
            .store(figures.brokers_down, Ordering::Relaxed);
        shared
            .throttle_ms
            .store(figures.throttle_ms, Ordering::Relaxed);
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

    /// Writes down what is durable in Kafka.
    fn remember(&mut self, known: LocalPosition) {
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

    fn unreadable(&mut self, error: &WalError) -> End {
        if error.missing {
            self.sender.gap(error.lsn, &error.message)
        } else {
            End::Stay(State::Halted, trouble::damaged(error.lsn, &error.message))
        }
    }
}

/// What the threads count.
struct Figures {
    events: u64,
    bytes: u64,
    transactions: u64,
    unacknowledged_events: u64,
    oldest_unacknowledged_us: i64,
    topics: u32,
    brokers_up: u32,
    brokers_down: u32,
    throttle_ms: u32,
}
