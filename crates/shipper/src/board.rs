//! What the threads of the sender tell its main thread: a few facts behind one lock, and an eventfd that wakes it.

use std::collections::BTreeMap;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering, fence};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use change::position::{Position, lsn_text};

use super::orders::Aside;

/// A coded condition: something to wait for, or a reason to halt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    pub code: &'static str,
    pub message: String,
    pub remedy: String,
}

/// How a delivery ended that cannot go on with this producer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// Start again at the position, with new producers.
    Rewind(Trouble),
    /// Start again with batches of at most so many bytes: a topic takes no larger ones.
    Smaller(usize),
    /// Start again with records of at most so many bytes for a topic that does not tell what it takes.
    SmallerIn(String, usize),
    /// Start again without a topic that has refused an event.
    Aside(Box<Aside>),
    /// Only a person can help.
    Halt(Trouble),
    /// Another sender took over: this one must not fence it back.
    Fenced(Trouble),
}

/// A position in Kafka.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Durable {
    /// Number of the progress that it records, counted since the session began.
    pub number: u64,
    pub cluster_id: String,
    pub epoch: u64,
    pub timeline: u32,
    pub commit_lsn: u64,
    pub restart_lsn: u64,
}

impl Durable {
    /// The order in which positions are newer.
    pub fn rank(&self) -> (u64, u32, u64) {
        (self.epoch, self.timeline, self.commit_lsn)
    }
}

/// The facts.
#[derive(Debug, Default)]
pub struct Facts {
    /// Set once the position topic was read: the position found, if any, and the epoch of this sender.
    pub start: Option<(Option<Box<Position>>, u64)>,
    /// Transactions acknowledged by Kafka, counted since the session began.
    pub acknowledged: u64,
    /// Of the newest of them: where its commit record begins and ends.
    pub acknowledged_lsn: (u64, u64),
    /// Commit time of the oldest transaction that is produced and not acknowledged, 0 for none.
    pub oldest_unacknowledged_us: i64,
    /// The newest position that this session made durable in Kafka.
    pub durable: Option<Durable>,
    pub failure: Option<Failure>,
    /// A topic that is to be put aside: the Kafka thread waits until that is noted.
    pub aside_wanted: Option<Box<Aside>>,
    /// Topics that are put aside, durably, and since which commit, as positions name them.
    pub asides: Arc<BTreeMap<String, String>>,
    /// What Kafka is waited for with, if anything.
    pub trouble: Option<Trouble>,
    /// What the newest event is held back by, if anything. Stays while other things work.
    pub blocked: Option<Trouble>,
    /// What a connection failed of, and when that was said.
    cause: Option<(Trouble, Instant)>,
    /// Failures that the log has, and since when.
    logged: Vec<(String, Instant)>,
    /// Why events are not acknowledged, though the client says nothing.
    pub stall: Option<Trouble>,
    pub events: u64,
    pub bytes: u64,
    pub transactions: u64,
    pub unacknowledged_events: u64,
    pub topics: u32,
    pub brokers_up: u32,
    pub brokers_down: u32,
    /// How long brokers make the client wait for a quota, on average over the last statistics.
    pub throttle_ms: u32,
    /// Lines for the server log.
    pub log: Vec<String>,
}

impl Facts {
    /// The topics that are put aside, as the orders have them.
    pub fn put_aside(&mut self, asides: &[Aside]) {
        let asides = asides
            .iter()
            .map(|aside| (aside.topic.clone(), lsn_text(aside.from)));
        self.asides = Arc::new(asides.collect());
    }

    /// Something went through: what was waited for before is over, and what connections failed of is of no interest.
    pub fn went_through(&mut self) {
        self.trouble = None;
        self.cause = None;
    }

    /// What the sender waits with, if anything: what is certain before what a call that was in vain makes of it.
    pub fn waits_with(&self) -> Option<&Trouble> {
        let trouble = self.trouble.as_ref();
        let certain = trouble.filter(|trouble| trouble.code != "CDC0301");
        let blocked = self.blocked.as_ref();
        blocked.or(certain).or(self.stall.as_ref()).or(trouble)
    }
}

/// Shared by the three threads of one session.
#[derive(Debug)]
pub struct Board {
    facts: Mutex<Facts>,
    changed: Condvar,
    main_wake: EventFd,
    /// Wakes the Kafka thread: new work, a delivery report, or the end.
    pub kafka_wake: EventFd,
    /// Bytes in the channel to the Kafka thread.
    pub queued_bytes: AtomicUsize,
    /// The main thread waits for room in the channel.
    pub room_wanted: Wanted,
    /// The Kafka thread waits for work in the channel.
    pub work_wanted: Wanted,
    /// The Kafka thread takes no work until an answer came: the main thread need not look for more.
    gathering: AtomicBool,
    stop: AtomicBool,
}

/// The first of several reasons is shown for so long, and a failure is logged once in it. librdkafka repeats what lasts
/// every 30 seconds.
const CAUSE_KEPT: Duration = Duration::from_secs(60);
/// Afterwards nothing is known of connections any more.
const CAUSE_VALID: Duration = Duration::from_secs(120);
/// Different failures within a minute of which the log is kept free.
const MAX_LOGGED: usize = 50;
/// Lines kept for the log; more are dropped, with a line that says so.
const MAX_LOG_LINES: usize = 200;

impl Board {
    pub fn new() -> std::io::Result<Board> {
        Ok(Board {
            facts: Mutex::default(),
            changed: Condvar::new(),
            main_wake: EventFd::new()?,
            kafka_wake: EventFd::new()?,
            queued_bytes: AtomicUsize::new(0),
            room_wanted: Wanted::default(),
            work_wanted: Wanted::default(),
            gathering: AtomicBool::new(false),
            stop: AtomicBool::new(false),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Facts> {
        // A thread that panicked while holding the lock left plain numbers behind; they are still right.
        self.facts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads the facts, on whatever thread.
    pub fn read<R>(&self, read: impl FnOnce(&mut Facts) -> R) -> R {
        read(&mut self.lock())
    }

    /// Changes the facts and wakes the main thread.
    pub fn tell(&self, change: impl FnOnce(&mut Facts)) {
        change(&mut self.lock());
        self.changed.notify_all();
        self.main_wake.signal();
    }

    /// Work was put into the channel: wakes the Kafka thread where it waits for that.
    pub fn work_arrived(&self) {
        if self.work_wanted.take() {
            self.kafka_wake.signal();
        }
    }

    /// Says whether the Kafka thread takes work; the main thread is woken when it does again.
    pub fn gathering(&self, gathering: bool) {
        if self.gathering.swap(gathering, Ordering::SeqCst) && !gathering {
            self.main_wake.signal();
        }
    }

    pub fn is_gathering(&self) -> bool {
        self.gathering.load(Ordering::SeqCst)
    }

    /// An item was taken from the channel and dealt with: wakes the main thread where it waits for that.
    pub fn room_made(&self) {
        if self.room_wanted.take() {
            self.main_wake.signal();
        }
    }

    /// A line for the server log, written by the main thread.
    pub fn log(&self, line: String) {
        self.tell(|facts| match facts.log.len() {
            0..MAX_LOG_LINES => facts.log.push(line),
            MAX_LOG_LINES => facts
                .log
                .push("pg_cdc: further messages of librdkafka are dropped".to_owned()),
            _ => {}
        });
    }

    /// Sets or clears what Kafka is waited for with.
    pub fn set_trouble(&self, trouble: Option<Trouble>) {
        let trouble = trouble.map(|trouble| self.traced(trouble));
        if self.read(|facts| facts.trouble != trouble) {
            self.tell(|facts| facts.trouble = trouble);
        }
    }

    /// Sets or clears what the newest event is held back by.
    pub fn set_blocked(&self, blocked: Option<Trouble>) {
        let blocked = blocked.map(|blocked| self.traced(blocked));
        if self.read(|facts| facts.blocked != blocked) {
            self.tell(|facts| facts.blocked = blocked);
        }
    }

    /// A call that was in vain knows less of Kafka than the connections do.
    fn traced(&self, trouble: Trouble) -> Trouble {
        match trouble.code {
            "CDC0301" | "CDC0302" => self.read(|facts| match &facts.cause {
                Some((cause, said)) if said.elapsed() < CAUSE_VALID => cause.clone(),
                _ => trouble,
            }),
            _ => trouble,
        }
    }

    /// A connection failed of this. It may be one of several: it is shown only with something that waits. A broker that
    /// refuses us says more than one that is not there.
    pub fn connection_failed(&self, cause: Trouble) {
        self.read(|facts| {
            let keep = facts.cause.as_ref().is_some_and(|(known, said)| {
                said.elapsed() < CAUSE_KEPT && (known.code == "CDC0302" || known.code == cause.code)
            });
            if !keep {
                facts.cause = Some((cause, Instant::now()));
            }
        });
    }

    /// It is known of what connections will fail.
    pub fn cause_found(&self, cause: Trouble) {
        self.read(|facts| facts.cause = Some((cause, Instant::now())));
    }

    /// Whether the log has not had this failure for a while.
    pub fn is_news(&self, failure: &str) -> bool {
        self.read(|facts| {
            facts
                .logged
                .retain(|(_, since)| since.elapsed() < CAUSE_KEPT);
            let known = facts.logged.iter().any(|(logged, _)| logged == failure);
            if !known && facts.logged.len() < MAX_LOGGED {
                facts.logged.push((failure.to_owned(), Instant::now()));
            }
            !known
        })
    }

    /// Ends the session with a failure; the first one counts.
    pub fn fail(&self, failure: Failure) {
        self.tell(|facts| {
            facts.failure.get_or_insert(failure);
        });
    }

    pub fn has_failed(&self) -> bool {
        self.read(|facts| facts.failure.is_some())
    }

    /// Asks the threads to end.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Release);
        // Who has looked at the flag and not yet gone to sleep does so first.
        drop(self.lock());
        self.changed.notify_all();
        self.kafka_wake.signal();
    }

    pub fn stopping(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }

    /// Sleeps on a thread of the sender (never the main one) while `idle` holds, until something was told or asked, at
    /// most `timeout`. Whoever ends the idleness tells so afterwards: then no wake-up is lost.
    pub fn sleep_while(&self, timeout: Duration, idle: impl FnOnce() -> bool) {
        let facts = self.lock();
        if !self.stopping() && idle() {
            let _woken = self
                .changed
                .wait_timeout(facts, timeout)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// What the main thread waits on, beside its latch.
    pub fn main_wake(&self) -> &EventFd {
        &self.main_wake
    }
}

/// One side's word that it is about to sleep and wants to be woken: who brings what it waits for wakes it only then.
/// The one asks, looks again, and sleeps; the other brings, then looks whether it was asked. The fences order both.
#[derive(Debug, Default)]
pub struct Wanted(AtomicBool);

impl Wanted {
    /// Asks to be woken; what one waits for must be looked at once more afterwards.
    pub fn ask(&self) {
        self.0.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    /// Takes the question back.
    pub fn withdraw(&self) {
        self.0.store(false, Ordering::Relaxed);
    }

    /// Whether somebody is to be woken, after something was brought. Says so once.
    fn take(&self) -> bool {
        fence(Ordering::SeqCst);
        self.0.load(Ordering::Relaxed) && self.0.swap(false, Ordering::Relaxed)
    }
}

/// CDC0301 where there is no eventfd to be had.
pub fn no_eventfd(error: &std::io::Error) -> Trouble {
    Trouble {
        code: "CDC0301",
        message: format!("an eventfd could not be made: {error}"),
        remedy: "Raise the limit of open files of the server's user.".to_owned(),
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

/// A Linux eventfd: a counter that makes a file descriptor readable.
#[derive(Debug)]
pub struct EventFd(OwnedFd);

impl EventFd {
    pub fn new() -> std::io::Result<EventFd> {
        // SAFETY: a plain system call; the descriptor is owned from here on.
        unsafe {
            let fd = libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK);
            if fd < 0 {
                Err(std::io::Error::last_os_error())
            } else {
                Ok(EventFd(OwnedFd::from_raw_fd(fd)))
            }
        }
    }

    pub fn raw(&self) -> RawFd {
        self.0.as_raw_fd()
    }

    pub fn signal(&self) {
        let one = 1u64.to_ne_bytes();
        // SAFETY: writes eight bytes to our own descriptor; a full counter is readable anyway.
        unsafe { libc::write(self.raw(), one.as_ptr().cast(), one.len()) };
    }

    /// Takes all signals so far.
    pub fn drain(&self) {
        let mut counter = [0u8; 8];
        // SAFETY: reads eight bytes from our own descriptor, which does not block.
        unsafe { libc::read(self.raw(), counter.as_mut_ptr().cast(), counter.len()) };
    }

    /// Waits for a signal, at most `timeout_ms`, and takes it. Not for the main thread.
    pub fn wait(&self, timeout_ms: i32) {
        let mut poll = libc::pollfd {
            fd: self.raw(),
            events: libc::POLLIN,
            revents: 0,
        };
        // SAFETY: one descriptor of our own.
        unsafe { libc::poll(&mut poll, 1, timeout_ms) };
        self.drain();
    }
}
