//! What the threads of the sender tell its main thread: a few facts behind one lock, and an eventfd that wakes it.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering, fence};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use change::trouble::Trouble;

use crate::facts::Facts;
use crate::trouble::Failure;
use crate::wake::EventFd;

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

    /// Reads the facts, or changes what the main thread need not know at once, on whatever thread.
    pub fn with_facts<R>(&self, with: impl FnOnce(&mut Facts) -> R) -> R {
        with(&mut self.lock())
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
    pub(crate) fn gathering(&self, gathering: bool) {
        if self.gathering.swap(gathering, Ordering::SeqCst) && !gathering {
            self.main_wake.signal();
        }
    }

    pub fn is_gathering(&self) -> bool {
        self.gathering.load(Ordering::SeqCst)
    }

    /// An item was taken from the channel and dealt with: wakes the main thread where it waits for that.
    pub(crate) fn room_made(&self) {
        if self.room_wanted.take() {
            self.main_wake.signal();
        }
    }

    /// A line for the server log, written by the main thread.
    pub(crate) fn log(&self, line: String) {
        self.tell(|facts| match facts.log.len() {
            0..MAX_LOG_LINES => facts.log.push(line),
            MAX_LOG_LINES => facts
                .log
                .push("pg_cdc: further messages of librdkafka are dropped".to_owned()),
            _ => {}
        });
    }

    /// Sets or clears what Kafka is waited for with.
    pub(crate) fn set_trouble(&self, trouble: Option<Trouble>) {
        let trouble = trouble.map(|trouble| self.with_facts(|facts| facts.traced(trouble)));
        if self.with_facts(|facts| facts.trouble != trouble) {
            self.tell(|facts| facts.trouble = trouble);
        }
    }

    /// Sets or clears what the newest event is held back by.
    pub(crate) fn set_blocked(&self, blocked: Option<Trouble>) {
        let blocked = blocked.map(|blocked| self.with_facts(|facts| facts.traced(blocked)));
        if self.with_facts(|facts| facts.blocked != blocked) {
            self.tell(|facts| facts.blocked = blocked);
        }
    }

    /// A connection failed of this; shown only with something that waits.
    pub(crate) fn connection_failed(&self, cause: Trouble) {
        self.with_facts(|facts| facts.connection_failed(cause));
    }

    /// Connections will fail of this.
    pub(crate) fn cause_found(&self, cause: Trouble) {
        self.with_facts(|facts| facts.cause_found(cause));
    }

    /// Whether the log has not had this failure for a while.
    pub(crate) fn is_news(&self, failure: &str) -> bool {
        self.with_facts(|facts| facts.is_news(failure))
    }

    /// Ends the session with a failure; the first one counts.
    pub fn fail(&self, failure: Failure) {
        self.tell(|facts| {
            facts.failure.get_or_insert(failure);
        });
    }

    pub(crate) fn has_failed(&self) -> bool {
        self.with_facts(|facts| facts.failure.is_some())
    }

    /// Asks the threads to end.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Release);
        // Who has looked at the flag and not yet gone to sleep does so first.
        drop(self.lock());
        self.changed.notify_all();
        self.kafka_wake.signal();
    }

    pub(crate) fn stopping(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }

    /// Sleeps on a thread of the sender (never the main one) while `idle` holds, until something was told or asked, at
    /// most `timeout`. Whoever ends the idleness tells so afterwards: then no wake-up is lost.
    pub(crate) fn sleep_while(&self, timeout: Duration, idle: impl FnOnce() -> bool) {
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
