//! The worker's main thread: everything that talks to PostgreSQL.
//!
//! It never exits to start again: a process that is gone cannot hold the slot. What cannot go on becomes a state with
//! its remedy, and the worker waits in it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use change::mac_key::MacKey;
use change::position::lsn_text;
use pgrx::bgworkers::{BackgroundWorkerBuilder, BgWorkerStartTime};
use pgrx::pg_sys;
use pgrx::prelude::*;
use shipper::board::Board;
use shipper::delivery;
use shipper::files::local_position::LocalPosition;
use shipper::files::orders::{Aside, Hold, Orders};
use shipper::files::source::{self as identity, Source};
use shipper::kafka::properties::read_properties;
use shipper::kafka::settings::{KafkaSettings, MAX_RECORD_BYTES};
use shipper::position;
use shipper::progress::Progresses;
use shipper::session::Owner;
use shipper::trouble::{Failure, Trouble, no_eventfd};

use super::abort;
use super::orders;
use super::rejections::Rejections;
use super::session::Session;
use super::sleep::{interrupts, pause, sleep};
use super::slot::{self, Slot};
use super::source;
use super::wal_bound::WalBound;
use super::wal_reader::{end_of_wal, flushed, is_there, timeline_start};
use crate::cluster_secret::cluster_secret;
use crate::settings;
use crate::shared::{self, Described, Shared, State};
use crate::snapshot::launcher::Launcher;
use crate::{ffi, report};

/// The net for what nobody announces.
pub const TICK: Duration = Duration::from_secs(1);
/// The same where nothing happens at all.
pub const IDLE_TICK: Duration = Duration::from_secs(5);
/// How long the threads may take to end before the process goes without them.
const STOP_TIMEOUT: Duration = Duration::from_secs(3);
/// A halted sender looks again whether what it halted for was put right.
const LOOK_AGAIN: Duration = Duration::from_secs(30);
/// Between a failed delivery and the next try.
const REWIND_PAUSE: Duration = Duration::from_millis(200);
/// What goes through values is recursive, and bounded (`change::value::kind::MOST_LEVELS`): this is many times what it takes.
const THREAD_STACK_BYTES: usize = 4 * 1024 * 1024;
/// Work items in the channel; bytes are bounded apart.
const CHANNEL_ITEMS: usize = 4096;

/// Registers the worker; at server start only.
pub fn register() {
    BackgroundWorkerBuilder::new("pg_cdc sender")
        .set_type("pg_cdc sender")
        .set_library("pg_cdc")
        .set_function("pg_cdc_sender_main")
        .enable_spi_access()
        .set_start_time(BgWorkerStartTime::RecoveryFinished)
        .set_restart_time(Some(Duration::from_secs(1)))
        .load();
}

/// Set when the threads did not end in time: the process must not run exit handlers under them.
static THREADS_LEFT: AtomicBool = AtomicBool::new(false);

thread_local! {
    /// The threads of the running session, for the exit callback.
    static THREADS: std::cell::RefCell<Option<Threads>> = const { std::cell::RefCell::new(None) };
}

struct Threads {
    board: Arc<Board>,
    handles: Vec<JoinHandle<()>>,
}

impl Threads {
    /// Asks the threads to end and waits, for a bounded time.
    fn stop(self) {
        self.board.stop();
        let start = Instant::now();
        for handle in self.handles {
            while !handle.is_finished()
                && !abort::has_stopped_a_thread()
                && start.elapsed() < STOP_TIMEOUT
            {
                std::thread::sleep(Duration::from_millis(1));
            }
            if handle.is_finished() {
                // A panic was told on the board.
                drop(handle.join());
            } else {
                THREADS_LEFT.store(true, Ordering::Release);
            }
        }
    }
}

/// First at every exit: the slot, for the checkpointer may be waiting for it; then the producers.
#[pgrx::pg_guard]
unsafe extern "C-unwind" fn leave(_code: i32, _arg: pg_sys::Datum) {
    slot::release();
    if let Some(shared) = shared::shared() {
        shared.slot_ready.store(0, Ordering::Release);
        shared.is_reading.store(false, Ordering::Relaxed);
        shared.publish_sender(false);
        shared.announce();
    }
    if let Some(threads) = THREADS.with(|threads| {
        threads
            .try_borrow_mut()
            .ok()
            .and_then(|mut threads| threads.take())
    }) {
        threads.stop();
    }
}

/// Last at every exit: with a live producer, exit handlers of libraries would crash the process, and with it the server.
#[pgrx::pg_guard]
unsafe extern "C-unwind" fn leave_for_good(code: i32, _arg: pg_sys::Datum) {
    if THREADS_LEFT.load(Ordering::Acquire) {
        // SAFETY: shared memory was left in order before; nothing after this callback is needed.
        unsafe { libc::_exit(code) };
    }
}

/// Entry point of the background worker.
#[unsafe(no_mangle)]
#[pg_guard]
pub extern "C-unwind" fn pg_cdc_sender_main(_arg: pg_sys::Datum) {
    // SAFETY: the main thread of a new background worker; the handlers are PostgreSQL's own.
    unsafe {
        pg_sys::on_proc_exit(Some(leave_for_good), pg_sys::Datum::from(0));
        pg_sys::before_shmem_exit(Some(leave), pg_sys::Datum::from(0));
        ffi::take_signals();
        abort::take();
        // To no database, as the logical replication launcher: that makes the process one of pg_stat_activity.
        pg_sys::BackgroundWorkerInitializeConnection(std::ptr::null(), std::ptr::null(), 0);
    }
    let Some(shared) = shared::shared() else {
        return;
    };
    shared.publish_sender(true);
    let mut sender = Sender {
        shared,
        described: Described::default(),
        slot: None,
        is_placed: false,
        counted: Counted::so_far(shared),
        launcher: Launcher::new(),
        bound: WalBound::new(),
        tended_at: None,
        orders: Orders::default(),
        orders_read: false,
        remembered: None,
        max_batch_bytes: None,
        smaller_in: BTreeMap::new(),
        rejections: Rejections::default(),
        gap: None,
    };
    sender.run();
}

/// What was counted by sessions that are over, of earlier senders too.
pub struct Counted {
    pub events: u64,
    pub bytes: u64,
    pub transactions: u64,
}

impl Counted {
    fn so_far(shared: &Shared) -> Counted {
        Counted {
            events: shared.events.load(Ordering::Relaxed),
            bytes: shared.bytes.load(Ordering::Relaxed),
            transactions: shared.transactions.load(Ordering::Relaxed),
        }
    }
}

/// The worker's main thread, over all its sessions.
pub struct Sender {
    pub shared: &'static Shared,
    described: Described,
    pub slot: Option<Slot>,
    /// The slot holds the WAL from where reading goes on.
    is_placed: bool,
    pub counted: Counted,
    pub launcher: Launcher,
    bound: WalBound,
    tended_at: Option<Instant>,
    pub orders: Orders,
    orders_read: bool,
    /// What the server remembers of the position.
    pub remembered: Option<LocalPosition>,
    /// Of batches, as far as a topic's limit is known to ask for it.
    pub max_batch_bytes: Option<usize>,
    /// Of records, for topics that do not tell what they take and have refused larger ones.
    pub smaller_in: BTreeMap<String, usize>,
    /// Forged messages, for the log.
    pub rejections: Rejections,
    /// The gap that is waiting to be accepted.
    gap: Option<(u64, u64)>,
}

/// Why a session ended.
pub enum End {
    /// Settings or orders changed.
    Again,
    /// The producers must be made anew.
    Rewind,
    /// Wait for a person, in this state.
    Stay(State, Trouble),
    /// Nothing is to be sent, by order.
    Held,
}

impl Sender {
    fn run(&mut self) -> ! {
        let mut source = loop {
            match self.load_source() {
                Ok(source) => break source,
                Err(trouble) => self.stay(State::Halted, &trouble),
            }
        };
        loop {
            interrupts();
            reload_if_asked();
            self.shared.set_source_id(&source.source_id);
            let generation = u32::from(source.generation);
            self.shared.generation.store(generation, Ordering::Relaxed);
            match self.begin(&mut source) {
                End::Again => {}
                End::Rewind => pause(REWIND_PAUSE),
                End::Stay(state, trouble) => self.stay(state, &trouble),
                End::Held => self.stay_held(),
            }
        }
    }

    /// What people ordered comes first, then a session.
    fn begin(&mut self, source: &mut Source) -> End {
        let prepared = self.take_orders().and_then(|_| self.adopt(source));
        let prepared = prepared.and_then(|()| {
            self.remembered = LocalPosition::read().map_err(|error| unreadable_file(&error))?;
            if let Some(known) = &self.remembered {
                let sent_lsn = &self.shared.sent_lsn;
                sent_lsn.fetch_max(known.acknowledged_lsn, Ordering::AcqRel);
            }
            Ok(())
        });
        match prepared {
            Ok(()) => self.session(source),
            Err(trouble) => End::Stay(State::Halted, trouble),
        }
    }

    /// Reads the orders where there are new ones; whether any came that only a new session takes up.
    pub fn take_orders(&mut self) -> Result<bool, Trouble> {
        if self.orders_read && !self.has_new_orders() {
            return Ok(false);
        }
        let orders = Orders::read().map_err(|error| unreadable_file(&error))?;
        self.orders_read = true;
        // At the first look there may be older orders, of which nobody has told.
        self.shared
            .ordered
            .fetch_max(orders.number, Ordering::SeqCst);
        self.shared
            .topics_aside
            .store(orders.asides.len() as u32, Ordering::Relaxed);
        let before = std::mem::replace(&mut self.orders, orders);
        let now = &self.orders;
        Ok(before.gaps != now.gaps
            || before.skips != now.skips
            || before.asides != now.asides
            || before.repartitions != now.repartitions
            || before.adoption != now.adoption)
    }

    /// Says that the newest orders are taken up.
    pub fn obey(&self) {
        self.shared
            .obeyed
            .fetch_max(self.orders.number, Ordering::SeqCst);
        self.shared.announce();
    }

    fn has_new_orders(&self) -> bool {
        self.shared.ordered.load(Ordering::SeqCst) > self.orders.number
    }

    /// The server is the source that it seems to be, somebody says: it goes on one generation later.
    fn adopt(&mut self, source: &mut Source) -> Result<(), Trouble> {
        if self.orders.adoption.is_none() {
            return Ok(());
        }
        let adopted = source.next_generation().and_then(|next| {
            LocalPosition::forget()?;
            orders::change(self.shared, |orders| orders.adoption = None)?;
            Ok(next)
        });
        *source = adopted.map_err(|error| unreadable_file(&error))?;
        pgrx::log!(
            "pg_cdc: source {} is adopted, generation {}",
            source.source_id,
            source.generation
        );
        self.take_orders().map(drop)
    }

    /// Notes for good that a topic is put aside, and says so once.
    pub fn put_aside(&mut self, aside: Aside) -> Result<(), Trouble> {
        if self.orders.aside(&aside.topic).is_some() {
            return Ok(());
        }
        let mut now = Vec::new();
        orders::change(self.shared, |orders| {
            orders.asides.push(aside.clone());
            now.clone_from(&orders.asides);
        })
        .map_err(|error| unreadable_file(&error))?;
        // Whoever lets one go on changes the orders again: that is seen as another change.
        self.orders.asides = now;
        self.shared
            .topics_aside
            .store(self.orders.asides.len() as u32, Ordering::Relaxed);
        report::Report::new(
            aside_code(&aside.code),
            PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            format!("topic is put aside: {}", aside.message),
            aside.remedy,
        )
        .detail("Nothing more of it is sent; the others go on. See cdc_aside.")
        .log();
        Ok(())
    }

    /// Everything before the order is in Kafka: notes that the drain is done, whether that could be written.
    pub fn note_drained(&self) -> bool {
        let noted = orders::change(self.shared, |orders| {
            if let Some(Hold::Drain { done, .. }) = &mut orders.hold {
                *done = true;
            }
        });
        if let Err(error) = &noted {
            pgrx::log!("pg_cdc: the end of the drain cannot be noted: {error}");
        }
        noted.is_ok()
    }

    /// What must be looked after in every state; a little each second.
    pub fn tend(&mut self) {
        if self.tended_at.is_some_and(|at| at.elapsed() < TICK) {
            return;
        }
        self.tended_at = Some(Instant::now());
        if let Some(slot) = self.slot.as_mut() {
            self.bound.tend(self.shared, slot);
        }
    }

    /// The WAL that is needed next, as far as this server knows, may be gone before Kafka comes back.
    pub fn lost_wal(&mut self) -> Option<End> {
        let known = self.remembered.as_ref()?;
        let (timeline, flush_lsn) = flushed();
        let needed_lsn = known.restart_lsn;
        let is_lost = known.timeline == timeline
            && needed_lsn < flush_lsn
            && self.orders.gap_at(needed_lsn).is_none()
            && !is_there(timeline, needed_lsn);
        is_lost.then(|| self.gap(needed_lsn, "the segment was removed"))
    }

    /// Reading went on behind the gap.
    pub fn gap_is_over(&mut self) {
        if self.gap.take().is_some() {
            self.shared.gap_from.store(0, Ordering::Relaxed);
            self.shared.gap_to.store(0, Ordering::Relaxed);
        }
    }

    /// Whether reading has come past the gap.
    pub fn is_past_gap(&self, read_lsn: u64) -> bool {
        self.gap.is_some_and(|(from, _)| read_lsn > from)
    }

    /// The state `gap`: WAL from `from` to where the slot holds it is gone.
    pub fn gap(&mut self, from: u64, why: &str) -> End {
        let shared = self.shared;
        let held_lsn = self.slot.as_ref().map_or(0, Slot::restart_lsn);
        let to = match self.gap {
            // It stays where it was: somebody may be reading it.
            Some((_, to)) if from < to && held_lsn <= to => to,
            _ if held_lsn > from => held_lsn,
            _ => end_of_wal(),
        };
        self.gap = Some((from, to));
        if let Some(slot) = self.slot.as_mut()
            && held_lsn < to
        {
            slot.let_go(shared, to);
        }
        shared.gap_from.store(from, Ordering::Relaxed);
        shared.gap_to.store(to, Ordering::Relaxed);
        let (from, to) = (lsn_text(from), lsn_text(to));
        End::Stay(
            State::Gap,
            Trouble {
                code: "CDC0401",
                message: format!("WAL from {from} to {to} is gone: {why}"),
                remedy: format!(
                    "Restore the missing segments into pg_wal, or SELECT * FROM cdc_accept_gap('{from}', '{to}', 'why') and do what it lists."
                ),
            },
        )
    }

    /// What is captured from now on is not lost.
    fn publish_slot(&self) {
        let restart_lsn = self.slot.as_ref().map_or(0, Slot::restart_lsn);
        let shared = self.shared;
        shared.restart_lsn.store(restart_lsn, Ordering::Relaxed);
        shared.slot_ready.store(1, Ordering::Release);
    }

    /// Who this source is; everybody is told. Until that is known nothing can be sent, but nothing is let go either.
    fn load_source(&mut self) -> Result<Source, Trouble> {
        let loaded = source::load_or_create();
        if let Ok(source) = &loaded {
            self.shared.set_source_id(&source.source_id);
        } else if self.slot.is_none() && !settings::text(&settings::BROKERS).is_empty() {
            self.slot = Slot::hold(&settings::text(&settings::SOURCE_NAME)).ok();
        }
        loaded.map_err(|error| Trouble {
            code: "CDC0405",
            message: format!("the source's identity cannot be read or made: {error}"),
            remedy: source::remedy(&error),
        })
    }

    pub fn describe(&mut self, state: State, waiting_for: &str, trouble: Option<&Trouble>) {
        let unchanged = trouble.is_none()
            && state == self.shared.state()
            && self.described.error_code.is_empty()
            && self.described.waiting_for == waiting_for;
        if unchanged {
            return;
        }
        let mut described = Described {
            waiting_for: waiting_for.to_owned(),
            ..self.described.clone()
        };
        (described.error_code, described.error, described.remedy) = match trouble {
            Some(trouble) => (
                trouble.code.to_owned(),
                trouble.message.clone(),
                trouble.remedy.clone(),
            ),
            None => Default::default(),
        };
        if described == self.described && state == self.shared.state() {
            return;
        }
        if let Some(trouble) = trouble.filter(|trouble| self.described.error != trouble.message) {
            // SAFETY: reads the clock.
            self.shared
                .error_at
                .store(unsafe { pg_sys::GetCurrentTimestamp() }, Ordering::Relaxed);
            report::Report::new(
                trouble.code,
                PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
                trouble.message.clone(),
                trouble.remedy.clone(),
            )
            .detail(format!("The sender is in state \"{}\".", state.name()))
            .log();
        }
        self.described = described;
        self.shared.describe(state, &self.described);
        show_activity(state, &self.described.error_code);
    }

    /// Says which prepared transaction is the oldest open one, empty for none.
    pub fn describe_oldest(&mut self, gid: &str) {
        if self.described.oldest_gid != gid {
            gid.clone_into(&mut self.described.oldest_gid);
            self.shared.describe(self.shared.state(), &self.described);
        }
    }

    /// Waits in a state that only a changed setting, an order, or a person, ends.
    fn stay(&mut self, state: State, trouble: &Trouble) {
        self.describe(state, &trouble.remedy, Some(trouble));
        self.obey();
        let start = Instant::now();
        // Slots and topics may be put right without a reload: look again now and then. A fenced sender stays down until
        // somebody says otherwise, else two servers would fence each other in turns.
        while !reload_if_asked()
            && !self.has_new_orders()
            && (state == State::Fenced || start.elapsed() < LOOK_AGAIN)
        {
            sleep(TICK);
            self.tend();
        }
    }

    /// Waits for the order that ends a pause, or what a drain left.
    fn stay_held(&mut self) {
        let (state, by) = match &self.orders.hold {
            Some(Hold::Pause { by }) => (State::Paused, by),
            Some(Hold::Drain { by, .. }) => (State::Drained, by),
            None => return,
        };
        let mut waiting_for = format!("cdc_resume(); ordered by {} at {}", by.role, by.at);
        if let Some(reason) = &by.reason {
            waiting_for.push_str(&format!(": {reason}"));
        }
        self.describe(state, &waiting_for, None);
        self.obey();
        while !self.has_new_orders() {
            reload_if_asked();
            sleep(TICK);
            self.tend();
        }
    }

    /// One session: from settings to the first thing that ends it. The slot is held from the first one on.
    fn session(&mut self, source: &Source) -> End {
        if settings::text(&settings::BROKERS).is_empty() {
            self.describe(State::Unconfigured, "cdc.brokers to be set", None);
            self.obey();
            while !reload_if_asked() && !self.has_new_orders() {
                sleep(Duration::from_secs(60));
                self.tend();
            }
            return End::Again;
        }
        let source_name = settings::text(&settings::SOURCE_NAME);
        if !self.is_placed {
            let held = self.slot.take();
            match held.map_or_else(|| Slot::hold(&source_name), Ok) {
                Ok(mut slot) => {
                    let (timeline, _) = flushed();
                    let begin = timeline_start(timeline);
                    let is_promoted = self
                        .remembered
                        .as_ref()
                        .is_none_or(|known| known.timeline != timeline);
                    // A promoted server takes changes before there is a slot, and the checkpoint with which a new slot
                    // begins may be younger than they are.
                    if is_promoted && begin != 0 && is_there(timeline, begin) {
                        slot.hold_from(self.shared, begin);
                    }
                    match &self.remembered {
                        Some(known) if is_there(timeline, known.restart_lsn) => {
                            slot.hold_from(self.shared, known.restart_lsn);
                        }
                        Some(_) => {}
                        // From here on nothing may be missed, whatever becomes of the slot.
                        None => {
                            let known = LocalPosition::first(timeline, slot.restart_lsn());
                            if let Err(error) = known.write() {
                                // It stays held.
                                self.slot = Some(slot);
                                return End::Stay(State::Halted, unreadable_file(&error));
                            }
                            self.remembered = Some(known);
                        }
                    }
                    self.slot = Some(slot);
                    self.is_placed = true;
                }
                Err(trouble) => return End::Stay(State::Halted, trouble),
            }
        }
        match &self.orders.hold {
            Some(Hold::Drain {
                done: true,
                drop_slot: true,
                ..
            }) => {
                self.shared.slot_ready.store(0, Ordering::Release);
                if let Some(slot) = self.slot.take() {
                    slot.drop_it(self.shared);
                }
                self.is_placed = false;
                return End::Held;
            }
            Some(Hold::Pause { .. } | Hold::Drain { done: true, .. }) => {
                self.publish_slot();
                return End::Held;
            }
            Some(Hold::Drain { done: false, .. }) | None => {}
        }
        self.publish_slot();
        self.describe(State::Starting, "Kafka", None);

        let kafka_settings = match read_settings() {
            Ok(settings) => settings,
            Err(trouble) => return End::Stay(State::Halted, trouble),
        };
        let board = match Board::new() {
            Ok(board) => Arc::new(board),
            Err(error) => return End::Stay(State::Halted, no_eventfd(&error)),
        };
        let (work, work_receiver) = crossbeam_channel::bounded(CHANNEL_ITEMS);
        let progresses = Arc::new(Progresses::new(
            Arc::clone(&board),
            kafka_settings.exactly_once,
        ));
        let (timeline, _) = flushed();
        let owner = Owner {
            source_id: source.source_id.clone(),
            generation: source.generation,
            node: identity::host_name(),
            timeline_start: timeline_start(timeline),
            remembered: self.remembered.clone(),
        };
        let max_batch_bytes = self
            .max_batch_bytes
            .map_or(kafka_settings.batch_bytes(), |limit_bytes| {
                limit_bytes.min(kafka_settings.batch_bytes())
            });
        let threads_session = shipper::session::Session {
            // Before anything is read: chunks of snapshots that an earlier session met are read again.
            number: self.shared.session.fetch_add(1, Ordering::SeqCst) + 1,
            settings: kafka_settings.clone(),
            max_batch_bytes,
            owner,
            key: MacKey::derive("pg_cdc 1 position", &cluster_secret()),
            board: Arc::clone(&board),
            progresses: Arc::clone(&progresses),
            host: self.shared.host(),
        };
        let handles = without_signals(|| {
            let mut handles = Vec::new();
            let session = threads_session.clone();
            handles.push(spawn("cdc kafka", Arc::clone(&board), move || {
                delivery::run(&session, &work_receiver)
            }));
            if !kafka_settings.exactly_once {
                handles.push(spawn("cdc position", Arc::clone(&board), move || {
                    position::thread::run(&threads_session)
                }));
            }
            handles
        });
        let mut session = Session::new(
            self,
            source,
            Arc::clone(&board),
            work,
            progresses,
            kafka_settings,
        );
        let mut started = Vec::new();
        let mut end = None;
        for handle in handles {
            match handle {
                Ok(handle) => started.push(handle),
                Err(error) => {
                    let remedy = "Raise the limit of processes of the server's user.".to_owned();
                    end = Some(End::Stay(
                        State::Halted,
                        Trouble {
                            code: "CDC0301",
                            message: format!("a thread could not be started: {error}"),
                            remedy,
                        },
                    ));
                }
            }
        }
        THREADS.with_borrow_mut(|threads| {
            *threads = Some(Threads {
                board,
                handles: started,
            })
        });
        let end = match end {
            Some(end) => end,
            None => session.run(),
        };
        session.count();
        end_threads();
        end
    }
}

/// Shows the state in `pg_stat_activity.query`.
fn show_activity(state: State, error_code: &str) {
    let text = match error_code {
        "" => state.name().to_owned(),
        code => format!("{} [{code}]", state.name()),
    };
    if let Ok(text) = std::ffi::CString::new(text) {
        // SAFETY: on the main thread; the text is ASCII and copied.
        unsafe { pg_sys::pgstat_report_activity(pg_sys::BackendState::STATE_IDLE, text.as_ptr()) };
    }
}

/// The code of a topic that is put aside, as a message has it.
fn aside_code(code: &str) -> &'static str {
    match code {
        "CDC0312" => "CDC0312",
        "CDC0317" => "CDC0317",
        "CDC0318" => "CDC0318",
        _ => "CDC0313",
    }
}

/// CDC0405: a file of ours in the data directory.
fn unreadable_file(error: &std::io::Error) -> Trouble {
    Trouble {
        code: "CDC0405",
        message: format!(
            "a file in the folder pg_cdc of the data directory cannot be read or written: {error}"
        ),
        remedy: "See that the server can write the folder pg_cdc in its data directory.".to_owned(),
    }
}

/// The settings as they are now, with the properties file read again.
pub fn read_settings() -> Result<KafkaSettings, Trouble> {
    let retention_min = i64::from(settings::TOPIC_RETENTION.get());
    Ok(KafkaSettings {
        brokers: settings::text(&settings::BROKERS),
        source_name: settings::text(&settings::SOURCE_NAME),
        properties: read_properties(&settings::text(&settings::KAFKA_CONFIG_FILE))?,
        create_topics: settings::CREATE_TOPICS.get(),
        topic_timeout: u64::try_from(settings::TOPIC_TIMEOUT.get())
            .ok()
            .map(Duration::from_millis),
        partitions: settings::TOPIC_PARTITIONS.get(),
        replication_factor: settings::TOPIC_REPLICATION_FACTOR.get(),
        retention_ms: if retention_min < 0 {
            -1
        } else {
            retention_min * 60_000
        },
        tombstones: settings::TOMBSTONES.get(),
        exactly_once: settings::DELIVERY.get() == settings::Delivery::ExactlyOnce,
        max_event_bytes: (settings::TOPIC_MAX_EVENT_SIZE.get() as usize * 1024)
            .min(MAX_RECORD_BYTES),
        stubs: settings::OVERSIZE.get() == settings::Oversize::Stub,
        memory_bytes: settings::SENDER_MEMORY.get() as usize * 1024,
        heartbeat_ms: settings::HEARTBEAT_INTERVAL.get() as u64,
    })
}

/// Ends the threads of a session that is followed by another: two producers must never be alive, so this waits as long
/// as it takes. Should the process be asked to end meanwhile, the exit callback takes over.
fn end_threads() {
    let finished = || {
        THREADS.with_borrow(|threads| {
            threads.as_ref().is_none_or(|threads| {
                threads.board.stop();
                threads.handles.iter().all(JoinHandle::is_finished)
            })
        })
    };
    while !finished() {
        pause(Duration::from_millis(5));
    }
    if let Some(threads) = THREADS.with_borrow_mut(Option::take) {
        threads.stop();
    }
}

/// Spawns a thread whose panic ends the session instead of going unseen.
fn spawn(
    name: &str,
    board: Arc<Board>,
    body: impl FnOnce() + Send + 'static,
) -> std::io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name(name.to_owned()).stack_size(THREAD_STACK_BYTES).spawn(move || {
        if std::panic::catch_unwind(std::panic::AssertUnwindSafe(body)).is_err() {
            board.fail(Failure::Rewind(Trouble {
                code: "CDC0301",
                message: "a thread of the sender panicked".to_owned(),
                remedy: "Nothing: the sender starts again at its position. Report this with the server log.".to_owned(),
            }));
        }
    })
}

/// Threads inherit the signal mask: with all signals blocked, PostgreSQL's handlers run on the main thread only.
fn without_signals<R>(body: impl FnOnce() -> R) -> R {
    // SAFETY: plain calls with local signal sets; the mask is restored.
    unsafe {
        let mut all: libc::sigset_t = std::mem::zeroed();
        let mut before: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&mut all);
        libc::pthread_sigmask(libc::SIG_BLOCK, &all, &mut before);
        let result = body();
        libc::pthread_sigmask(libc::SIG_SETMASK, &before, std::ptr::null_mut());
        result
    }
}

/// Reads the configuration again after SIGHUP.
pub fn reload_if_asked() -> bool {
    // SAFETY: a flag of the signal handler, on the main thread.
    unsafe {
        if pg_sys::ConfigReloadPending == 0 {
            return false;
        }
        pg_sys::ConfigReloadPending = 0;
        pg_sys::ProcessConfigFile(pg_sys::GucContext::PGC_SIGHUP);
    }
    true
}
