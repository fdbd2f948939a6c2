//! The worker's main thread: everything that talks to PostgreSQL.
//!
//! It never exits to start again: a process that is gone cannot hold the slot. What cannot go on becomes a state with
//! its remedy, and the worker waits in it.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use change::chunk;
use change::envelope::Commit;
use change::position::lsn_text;
use change::wire::WireError;
use crossbeam_channel::{Sender as Channel, TrySendError};
use pgrx::bgworkers::{BackgroundWorkerBuilder, BgWorkerStartTime};
use pgrx::pg_sys;
use pgrx::prelude::*;

use super::assembly::{Assembly, ChunkPlace, Committed, Outcome, our_message};
use super::board::{Board, Failure, Trouble};
use super::client::{KafkaSettings, read_properties};
use super::kafka::{self, Beginning, Work};
use super::position::{self, Owner, Progress, Progresses};
use super::sleep::{WakeSet, interrupts, pause, sleep};
use super::slot::{self, Slot};
use super::source::{self, Source};
use super::wal_reader::{WalError, WalReader, flushed, timeline_start};
use crate::capture::buffer::{chunk_key, cluster_secret};
use crate::settings;
use crate::shared::{self, Described, Shared, State};
use crate::snapshot::launcher::Launcher;
use crate::{ffi, report};

/// The net for what nobody announces.
const TICK: Duration = Duration::from_secs(1);
/// How long the threads may take to end before the process goes without them.
const STOP_TIMEOUT: Duration = Duration::from_secs(3);
/// A halted sender looks again whether what it halted for was put right.
const LOOK_AGAIN: Duration = Duration::from_secs(30);
/// Between a failed delivery and the next try.
const REWIND_PAUSE: Duration = Duration::from_millis(200);
/// Work items in the channel; bytes are bounded apart.
const CHANNEL_ITEMS: usize = 4096;
/// The restart point is recorded when this much WAL without our changes has gone by.
const RECORD_EVERY_BYTES: u64 = 16 * 1024 * 1024;
/// Behind the end of the WAL by more than this, the sender is catching up.
const CATCHING_UP_BYTES: u64 = 16 * 1024 * 1024;
/// Events after which an idle sender gives memory back to the system.
const TRIM_EVERY_EVENTS: u64 = 20_000;
/// Records read before the latch and the board are looked at again.
const RECORDS_PER_ROUND: usize = 10_000;

/// Registers the worker; at server start only.
pub fn register() {
    BackgroundWorkerBuilder::new("pg_cdc sender")
        .set_type("pg_cdc sender")
        .set_library("pg_cdc")
        .set_function("pg_cdc_sender_main")
        .enable_shmem_access(None)
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
            while !handle.is_finished() && start.elapsed() < STOP_TIMEOUT {
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
    }
    let Some(shared) = shared::shared() else {
        return;
    };
    shared.publish_sender(true);
    let mut sender = Sender {
        shared,
        described: Described::default(),
        slot: None,
        counted: Counted::so_far(shared),
        launcher: Launcher::new(),
    };
    sender.run();
}

/// What was counted by sessions that are over, of earlier senders too.
struct Counted {
    events: u64,
    bytes: u64,
    transactions: u64,
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

struct Sender {
    shared: &'static Shared,
    described: Described,
    slot: Option<Slot>,
    counted: Counted,
    launcher: Launcher,
}

/// Why a session ended.
enum End {
    /// Settings changed.
    Again,
    /// The producers must be made anew.
    Rewind,
    /// Wait for a person, in this state.
    Stay(State, Trouble),
}

impl Sender {
    fn run(&mut self) -> ! {
        let source = match self.load_source() {
            Ok(source) => source,
            Err(trouble) => loop {
                self.stay(State::Halted, &trouble);
            },
        };
        self.described.source_id.clone_from(&source.source_id);
        self.shared
            .generation
            .store(u32::from(source.generation), Ordering::Relaxed);
        loop {
            interrupts();
            reload_if_asked();
            match self.session(&source) {
                End::Again => {}
                End::Rewind => pause(REWIND_PAUSE),
                End::Stay(state, trouble) => self.stay(state, &trouble),
            }
        }
    }

    fn load_source(&self) -> Result<Source, Trouble> {
        let mut random = [0; 16];
        // SAFETY: fills the array; a failure is told below.
        let random_is_there =
            unsafe { pg_sys::pg_strong_random(random.as_mut_ptr().cast(), random.len()) };
        let loaded = if random_is_there {
            source::load_or_create(random)
        } else {
            Err(std::io::Error::other("no random bytes could be had"))
        };
        loaded.map_err(|error| Trouble {
            code: "CDC0405",
            message: format!("the source's identity cannot be read or made: {error}"),
            remedy: "See that the server can write the folder pg_cdc in its data directory, and restart it.".to_owned(),
        })
    }

    fn describe(&mut self, state: State, waiting_for: &str, trouble: Option<&Trouble>) {
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
    }

    /// Waits in a state that only a changed setting, or a person, ends.
    fn stay(&mut self, state: State, trouble: &Trouble) {
        self.describe(state, &trouble.remedy, Some(trouble));
        let start = Instant::now();
        // Slots and topics may be put right without a reload: look again now and then. A fenced sender stays down until
        // somebody says otherwise, else two servers would fence each other in turns.
        while !reload_if_asked() && (state == State::Fenced || start.elapsed() < LOOK_AGAIN) {
            sleep(TICK);
        }
    }

    /// One session: from settings to the first thing that ends it. The slot is held from the first one on.
    fn session(&mut self, source: &Source) -> End {
        if settings::text(&settings::BROKERS).is_empty() {
            self.describe(State::Unconfigured, "cdc.brokers to be set", None);
            while !reload_if_asked() {
                sleep(Duration::from_secs(60));
            }
            return End::Again;
        }
        let source_name = settings::text(&settings::SOURCE_NAME);
        if self.slot.is_none() {
            match Slot::hold(&source_name) {
                Ok(slot) => self.slot = Some(slot),
                Err(trouble) => return End::Stay(State::Halted, trouble),
            }
        }
        let restart_lsn = self.slot.as_ref().map_or(0, Slot::restart_lsn);
        self.shared
            .restart_lsn
            .store(restart_lsn, Ordering::Relaxed);
        self.shared.slot_ready.store(1, Ordering::Release);
        self.describe(State::Starting, "Kafka", None);

        let kafka_settings = match read_settings() {
            Ok(settings) => settings,
            Err(trouble) => return End::Stay(State::Halted, trouble),
        };
        let board = match Board::new() {
            Ok(board) => Arc::new(board),
            Err(error) => {
                let message = format!("an eventfd could not be made: {error}");
                let remedy = "Raise the limit of open files of the server's user.".to_owned();
                return End::Stay(
                    State::Halted,
                    Trouble {
                        code: "CDC0301",
                        message,
                        remedy,
                    },
                );
            }
        };
        let (work, work_receiver) = crossbeam_channel::bounded(CHANNEL_ITEMS);
        let progresses = Arc::new(Progresses::new(Arc::clone(&board)));
        let (timeline, _) = flushed();
        let owner = Owner {
            source_id: source.source_id.clone(),
            generation: source.generation,
            node: source::host_name(),
            timeline_start: timeline_start(timeline),
        };
        // Before anything is read: chunks of snapshots that an earlier session met are read again.
        let session = self.shared.session.fetch_add(1, Ordering::SeqCst) + 1;
        let handles = without_signals(|| {
            let kafka = {
                let (settings, board, progresses) = (
                    kafka_settings.clone(),
                    Arc::clone(&board),
                    Arc::clone(&progresses),
                );
                spawn("cdc kafka", Arc::clone(&board), move || {
                    kafka::run(&settings, &board, &work_receiver, &progresses, session)
                })
            };
            let position = {
                let (settings, board, progresses) = (
                    kafka_settings.clone(),
                    Arc::clone(&board),
                    Arc::clone(&progresses),
                );
                let key = chunk::MacKey::derive("pg_cdc 1 position", &cluster_secret());
                spawn("cdc position", Arc::clone(&board), move || {
                    position::run(&settings, &owner, &key, &board, &progresses)
                })
            };
            [kafka, position]
        });
        let mut session = Session {
            sender: self,
            source,
            wake_set: WakeSet::new(Arc::clone(&board)),
            board: Arc::clone(&board),
            work,
            progresses,
            settings: kafka_settings,
            rates: Rates::new(),
            sent: 0,
            previous_lsn: None,
            trimmed_events: 0,
            recorded_restart_lsn: 0,
        };
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

/// The settings as they are now, with the properties file read again.
fn read_settings() -> Result<KafkaSettings, Trouble> {
    let retention_min = i64::from(settings::TOPIC_RETENTION.get());
    Ok(KafkaSettings {
        brokers: settings::text(&settings::BROKERS),
        source_name: settings::text(&settings::SOURCE_NAME),
        properties: read_properties(&settings::text(&settings::KAFKA_CONFIG_FILE))?,
        create_topics: settings::CREATE_TOPICS.get(),
        partitions: settings::TOPIC_PARTITIONS.get(),
        replication_factor: settings::TOPIC_REPLICATION_FACTOR.get(),
        retention_ms: if retention_min < 0 {
            -1
        } else {
            retention_min * 60_000
        },
        tombstones: settings::TOMBSTONES.get(),
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
    std::thread::Builder::new().name(name.to_owned()).spawn(move || {
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

/// CDC0206.
pub fn incomplete(xid8: u64, found: u64, expected: u64) -> Trouble {
    Trouble {
        code: "CDC0206",
        message: format!(
            "transaction {xid8} is incomplete: {found} of {expected} parts were found"
        ),
        remedy: "WAL before the restart point is missing: see CDC0401 in docs/errors.".to_owned(),
    }
}

/// Reads the configuration again after SIGHUP.
fn reload_if_asked() -> bool {
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

fn now_us() -> i64 {
    // SAFETY: reads the clock.
    unsafe { pg_sys::GetCurrentTimestamp() }
}

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
struct Session<'a> {
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
}

/// Stops the delivery of a transaction.
enum Interrupted {
    End(End),
    Wire(WireError),
}

impl From<WireError> for Interrupted {
    fn from(error: WireError) -> Self {
        Interrupted::Wire(error)
    }
}

impl Session<'_> {
    fn run(&mut self) -> End {
        let position = loop {
            if let Some(end) = self.look_around(None) {
                return end;
            }
            if let Some((position, _epoch)) = self.board.read(|facts| facts.start.take()) {
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
        let (start_lsn, done_lsn) = match &position {
            None => (slot_lsn, 0),
            Some(position) => {
                if position.timeline != timeline
                    || position.commit_lsn > flush_lsn
                    || position.restart_lsn > flush_lsn
                {
                    return End::Stay(State::Halted, Trouble {
                        code: "CDC0407",
                        message: format!(
                            "position {} on timeline {} is not in this server's history, which ends at {} on timeline {timeline}",
                            lsn_text(position.commit_lsn),
                            position.timeline,
                            lsn_text(flush_lsn)
                        ),
                        remedy: "The server was restored to an earlier moment or failed over: see CDC0407 in docs/errors.".to_owned(),
                    });
                }
                (position.restart_lsn, position.commit_lsn)
            }
        };
        self.previous_lsn = position
            .as_ref()
            .map(|position| position.commit_lsn)
            .filter(|lsn| *lsn != 0);
        pgrx::log!(
            "pg_cdc: sender reads from {} on timeline {timeline}",
            lsn_text(start_lsn)
        );
        // Claims the position for this sender's epoch, and gives the heartbeat something to repeat.
        self.recorded_restart_lsn = start_lsn;
        self.progresses.offer(Progress {
            timeline,
            restart_lsn: start_lsn,
            done: None,
        });
        self.stream(start_lsn, done_lsn, timeline)
    }

    fn stream(&mut self, start_lsn: u64, done_lsn: u64, timeline: u32) -> End {
        let mut reader = WalReader::new(start_lsn);
        let mut again: Option<WalReader> = None;
        let mut assembly = Assembly::new(chunk_key(), self.settings.memory_bytes / 4);
        loop {
            let (_, flush_lsn) = flushed();
            let mut idle = false;
            for _ in 0..RECORDS_PER_ROUND {
                let outcome = match reader.next() {
                    Ok(Some(record)) => assembly.take(&record, now_us),
                    Ok(None) => {
                        idle = true;
                        break;
                    }
                    Err(error) => return self.unreadable(&error),
                };
                match outcome {
                    Outcome::Nothing => {}
                    Outcome::Rejected(why) => {
                        self.sender
                            .shared
                            .rejected_chunks
                            .fetch_add(1, Ordering::Relaxed);
                        report::Report::new(
                            "CDC0205",
                            PgSqlErrorCode::ERRCODE_WARNING,
                            "forged or replayed message ignored",
                            "Find who calls pg_logical_emit_message with the prefix pg_cdc.",
                        )
                        .detail(why)
                        .log();
                    }
                    Outcome::Committed(committed) if committed.lsn <= done_lsn => {}
                    Outcome::Committed(committed) => {
                        if let Err(interrupted) = self.deliver(*committed, &mut again, timeline) {
                            return match interrupted {
                                Interrupted::End(end) => end,
                                Interrupted::Wire(error) => End::Stay(State::Halted, Trouble {
                                    code: "CDC0402",
                                    message: format!("a captured transaction cannot be decoded: {error}"),
                                    remedy: "Install the version of pg_cdc that wrote it; report this if it is the same.".to_owned(),
                                }),
                            };
                        }
                    }
                    Outcome::Incomplete {
                        xid8,
                        found,
                        expected,
                    } => {
                        return End::Stay(
                            State::Halted,
                            incomplete(xid8, u64::from(found), u64::from(expected)),
                        );
                    }
                }
            }
            // What was read is done before anybody sleeps: cdc_wait may be waiting for just that.
            if let Some(end) = self.look_around(Some((&reader, &assembly))) {
                return end;
            }
            if idle {
                self.idle(&reader, &assembly, timeline, flush_lsn);
            }
        }
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
            self.wake_set.sleep(TICK);
        }
        shared.listen(false);
    }

    /// After a load, the allocator keeps what the queues needed: an idle sender is small again.
    fn give_memory_back(&mut self) {
        let events = self.board.read(|facts| match facts.unacknowledged_events {
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
        let all_acknowledged = self.board.read(|facts| facts.acknowledged == self.sent);
        let restart_lsn = assembly.restart_lsn(reader.position());
        if all_acknowledged && restart_lsn >= self.recorded_restart_lsn + RECORD_EVERY_BYTES {
            self.recorded_restart_lsn = restart_lsn;
            self.progresses.offer(Progress {
                timeline,
                restart_lsn,
                done: None,
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
        change::order::sort(
            chunks.len() as u32,
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
                let opened = chunk::read(sealed).and_then(|chunk| chunk.body_into(&mut body));
                opened.map_err(|_| Interrupted::Wire(WireError::Invalid("chunk body")))?;
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
        let reader = again.get_or_insert_with(|| WalReader::new(place.lsn));
        reader.seek(place.lsn);
        match reader.next() {
            Ok(Some(record)) => match our_message(record.data) {
                Some((_, _, bytes)) => Ok(bytes.to_vec()),
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
        let shared = self.sender.shared;
        let (failure, trouble, log, acknowledged, acknowledged_lsn, durable_lsn, figures) =
            self.board.read(|facts| {
                (
                    facts.failure.take(),
                    facts.blocked.clone().or_else(|| facts.trouble.clone()),
                    std::mem::take(&mut facts.log),
                    facts.acknowledged,
                    facts.acknowledged_lsn,
                    facts.durable_restart_lsn,
                    Figures {
                        events: facts.events,
                        bytes: facts.bytes,
                        transactions: facts.transactions,
                        unacknowledged_events: facts.unacknowledged_events,
                        oldest_unacknowledged_us: facts.oldest_unacknowledged_us,
                        topics: facts.topics,
                        brokers_up: facts.brokers_up,
                        brokers_down: facts.brokers_down,
                    },
                )
            });
        for line in log {
            pgrx::log!("{line}");
        }
        if let Some(slot) = self.sender.slot.as_mut() {
            slot.advance(shared, durable_lsn);
        }
        let all_acknowledged = acknowledged == self.sent;
        if acknowledged > 0 {
            shared.sent_lsn.store(acknowledged_lsn.0, Ordering::Release);
        }
        let (_, flush_lsn) = flushed();
        if let Some((reader, assembly)) = reading {
            let read_lsn = reader.position();
            shared.read_lsn.store(read_lsn, Ordering::Relaxed);
            let done_lsn = if all_acknowledged {
                read_lsn
            } else {
                acknowledged_lsn.1
            };
            if done_lsn > shared.done_lsn.swap(done_lsn, Ordering::AcqRel) {
                shared.announce();
            }
            let (open, oldest_us) = assembly.open_transactions();
            shared.open_transactions.store(open, Ordering::Relaxed);
            shared
                .oldest_transaction
                .store(oldest_us, Ordering::Relaxed);
            shared
                .prepared
                .store(assembly.prepared_transactions(), Ordering::Relaxed);
            let state = match &trouble {
                Some(_) => State::WaitingForKafka,
                None if flush_lsn.saturating_sub(read_lsn) > CATCHING_UP_BYTES => State::CatchingUp,
                None => State::Streaming,
            };
            self.sender.describe(
                state,
                if trouble.is_some() { "Kafka" } else { "" },
                trouble.as_ref(),
            );
        } else if let Some(trouble) = &trouble {
            self.sender
                .describe(State::WaitingForKafka, "Kafka", Some(trouble));
        }
        self.publish(&figures);
        match failure? {
            Failure::Rewind(trouble) => {
                shared
                    .resent
                    .fetch_add(figures.unacknowledged_events, Ordering::Relaxed);
                self.sender
                    .describe(State::WaitingForKafka, "Kafka", Some(&trouble));
                Some(End::Rewind)
            }
            Failure::Halt(trouble) => Some(End::Stay(State::Halted, trouble)),
            Failure::Fenced(trouble) => Some(End::Stay(State::Fenced, trouble)),
        }
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
    }

    /// Adds this session's figures to those of the ones before.
    fn count(&mut self) {
        let (events, bytes, transactions) = self
            .board
            .read(|facts| (facts.events, facts.bytes, facts.transactions));
        let counted = &mut self.sender.counted;
        counted.events += events;
        counted.bytes += bytes;
        counted.transactions += transactions;
    }

    fn unreadable(&self, error: &WalError) -> End {
        let (_, flush_lsn) = flushed();
        if error.missing {
            let shared = self.sender.shared;
            shared.gap_from.store(error.lsn, Ordering::Relaxed);
            shared.gap_to.store(flush_lsn, Ordering::Relaxed);
            End::Stay(State::Gap, Trouble {
                code: "CDC0401",
                message: format!("WAL from {} to {} is gone: {}", lsn_text(error.lsn), lsn_text(flush_lsn), error.message),
                remedy: "Restore the missing WAL segments into pg_wal: the sender looks again every 30 seconds.".to_owned(),
            })
        } else {
            End::Stay(State::Halted, Trouble {
                code: "CDC0402",
                message: format!("WAL is damaged at {}: {}", lsn_text(error.lsn), error.message),
                remedy: "Restore the segment from the archive: the sender looks again every 30 seconds.".to_owned(),
            })
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
}
