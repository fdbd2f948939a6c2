//! Shared memory: what the sender tells everybody, and how everybody wakes the sender.
//!
//! Numbers are atomics, read without a lock; texts are behind one lightweight lock. Without preloading there is no
//! shared memory, and `shared()` says so.

mod sender_state;
mod texts;

use std::cell::UnsafeCell;
use std::sync::OnceLock;
use std::sync::atomic::{
    AtomicBool, AtomicI32, AtomicI64, AtomicPtr, AtomicU32, AtomicU64, Ordering,
};

use change::code::Code;
use change::trouble::Trouble;
use pgrx::pg_sys;
use shipper::host::Host;
use shipper::host::snapshot_slots::Slots;
use shipper::host::topic_counters::TopicCounters;

pub(crate) use self::sender_state::State;
pub(crate) use self::texts::Described;
use self::texts::Texts;
use crate::wait_event::WaitEvent;

/// Times are microseconds since 2000-01-01, LSNs are bytes.
#[repr(C)]
pub(crate) struct Shared {
    lock: *mut pg_sys::LWLock,
    /// Held while the file of the orders is read and written anew.
    orders_lock: *mut pg_sys::LWLock,
    /// Number of the newest order, and of the newest one that the sender has acted on.
    pub ordered: AtomicU64,
    pub obeyed: AtomicU64,
    texts: UnsafeCell<Texts>,
    /// Rises when the source's id becomes known or another one: what was decided by it is decided anew.
    identity: AtomicU32,
    /// The sender's latch, null while there is no sender.
    sender_latch: AtomicPtr<pg_sys::Latch>,
    pub sender_pid: AtomicI32,
    state: AtomicU32,
    pub state_since: AtomicI64,
    /// The slot holds the WAL: what is captured from now on is not lost.
    pub slot_ready: AtomicU32,
    /// The sender sleeps until somebody commits. Not while it reads, nor while it is halted: then a commit costs nothing.
    listening: AtomicBool,
    /// End of the newest commit that somebody announced.
    pub wake_lsn: AtomicU64,
    /// WAL beyond this is worth a look, though nothing of it is captured: the slot must follow.
    pub look_lsn: AtomicU64,
    /// Prepared transactions with captured rows: while there are any, every commit wakes the sender.
    pub prepared: AtomicU32,
    /// Everything that committed before this LSN is acknowledged by Kafka.
    pub done_lsn: AtomicU64,
    /// Commit record of the newest acknowledged transaction.
    pub sent_lsn: AtomicU64,
    pub read_lsn: AtomicU64,
    pub restart_lsn: AtomicU64,
    pub generation: AtomicU32,
    pub timeline: AtomicU32,
    pub events: AtomicU64,
    pub bytes: AtomicU64,
    pub transactions: AtomicU64,
    /// What they were when counting began anew.
    pub events_before: AtomicU64,
    pub bytes_before: AtomicU64,
    pub transactions_before: AtomicU64,
    pub events_per_second_milli: AtomicU64,
    pub bytes_per_second_milli: AtomicU64,
    pub lag_events: AtomicU64,
    /// Commit time of the oldest transaction that is not acknowledged, 0 for none.
    pub lag_since: AtomicI64,
    pub open_transactions: AtomicU32,
    pub oldest_transaction: AtomicI64,
    pub topics: AtomicU32,
    /// Topics that are put aside.
    pub topics_aside: AtomicU32,
    /// The sender reads the WAL: it knows what is not acknowledged.
    pub is_reading: AtomicBool,
    /// When the first commit was announced of which the sender has not said that Kafka has it, 0 for none that is known.
    pub unsent_since: AtomicI64,
    pub brokers_up: AtomicU32,
    pub brokers_down: AtomicU32,
    pub resent: AtomicU64,
    pub rejected_messages: AtomicU64,
    pub uncovered_rows: AtomicU64,
    /// Events that `cdc_skip_topic` gave up.
    pub skipped_events: AtomicU64,
    /// WAL that the sender holds at most by its own setting, bytes; 0 for no bound.
    pub max_wal_behind: AtomicU64,
    /// How long brokers make the sender wait for a quota.
    pub throttle_ms: AtomicU32,
    pub error_at: AtomicI64,
    pub stats_reset: AtomicI64,
    pub gap_from: AtomicU64,
    pub gap_to: AtomicU64,
    pub topic_counters: TopicCounters,
    pub snapshots: Slots,
    /// Rises with every session of the sender: what it remembers of changed rows begins anew.
    pub session: AtomicU64,
    /// Signalled whenever `done_lsn` or the state moves: `cdc_wait` sleeps on it.
    moved: UnsafeCell<pg_sys::ConditionVariable>,
}

static mut SHARED: *mut Shared = std::ptr::null_mut();
/// Tells the source id at server start.
static SOURCE_ID: OnceLock<fn() -> Option<String>> = OnceLock::new();
static mut PREVIOUS_REQUEST_HOOK: pg_sys::shmem_request_hook_type = None;
static mut PREVIOUS_STARTUP_HOOK: pg_sys::shmem_startup_hook_type = None;
const LOCK_NAME: &std::ffi::CStr = c"pg_cdc";

/// Asks for the shared memory; only at server start. `source_id` is asked for once it is there.
pub(crate) fn request(source_id: fn() -> Option<String>) {
    // Once, in the postmaster.
    SOURCE_ID.get_or_init(|| source_id);
    // SAFETY: _PG_init runs once, on the only thread of the postmaster.
    unsafe {
        PREVIOUS_REQUEST_HOOK = pg_sys::shmem_request_hook;
        pg_sys::shmem_request_hook = Some(request_hook);
        PREVIOUS_STARTUP_HOOK = pg_sys::shmem_startup_hook;
        pg_sys::shmem_startup_hook = Some(startup_hook);
    }
}

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn request_hook() {
    // SAFETY: called by the postmaster at the moment for such requests.
    unsafe {
        if let Some(previous) = PREVIOUS_REQUEST_HOOK {
            previous();
        }
        pg_sys::RequestAddinShmemSpace(size_of::<Shared>());
        pg_sys::RequestNamedLWLockTranche(LOCK_NAME.as_ptr(), 2);
    }
}

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn startup_hook() {
    // SAFETY: called by the postmaster once per (re)start, before any child runs: nobody else sees the memory yet.
    unsafe {
        if let Some(previous) = PREVIOUS_STARTUP_HOOK {
            previous();
        }
        let mut found = false;
        let shared: *mut Shared =
            pg_sys::ShmemInitStruct(c"pg_cdc".as_ptr(), size_of::<Shared>(), &mut found).cast();
        if !found {
            std::ptr::write_bytes(shared, 0, 1);
            let locks = pg_sys::GetNamedLWLockTranche(LOCK_NAME.as_ptr());
            (*shared).lock = &mut (*locks).lock;
            (*shared).orders_lock = &mut (*locks.add(1)).lock;
            pg_sys::ConditionVariableInit((*shared).moved.get());
            (*shared)
                .stats_reset
                .store(pg_sys::GetCurrentTimestamp(), Ordering::Relaxed);
            (*shared)
                .state_since
                .store(pg_sys::GetCurrentTimestamp(), Ordering::Relaxed);
            // Whoever writes a tracked table must know whether it is this server's own: from the first moment on.
            if let Some(source_id) = SOURCE_ID.get().and_then(|source_id| source_id()) {
                (*(*shared).texts.get()).source_id.set(&source_id);
            }
        }
        SHARED = shared;
    }
}

/// The shared memory; `None` if the library was not loaded at server start.
#[inline]
pub(crate) fn shared() -> Option<&'static Shared> {
    // SAFETY: set once before any child exists, and mapped for the life of the process. All fields behind a shared
    // reference are atomics, except those that `lock` and the condition variable's own lock protect.
    unsafe { SHARED.as_ref() }
}

/// Another number whenever the source's id became another one.
#[inline]
pub(crate) fn identity_number() -> u32 {
    shared().map_or(0, |shared| shared.identity.load(Ordering::Acquire))
}

impl Shared {
    pub(crate) fn state(&self) -> State {
        State::from_code(self.state.load(Ordering::Acquire))
    }

    /// The source's id; empty while it is not known.
    pub(crate) fn source_id(&self) -> String {
        // SAFETY: as in `describe`, with the lock shared.
        unsafe {
            pg_sys::LWLockAcquire(self.lock, pg_sys::LWLockMode::LW_SHARED);
            let source_id = (*self.texts.get()).source_id.get();
            pg_sys::LWLockRelease(self.lock);
            source_id
        }
    }

    /// Says who this source is. Called by the sender only, on its main thread.
    pub(crate) fn set_source_id(&self, source_id: &str) {
        if self.source_id() == source_id {
            return;
        }
        // SAFETY: as in `describe`.
        unsafe {
            pg_sys::LWLockAcquire(self.lock, pg_sys::LWLockMode::LW_EXCLUSIVE);
            (*self.texts.get()).source_id.set(source_id);
            pg_sys::LWLockRelease(self.lock);
        }
        // After the text: whoever sees the number sees the id.
        self.identity.fetch_add(1, Ordering::Release);
    }

    /// Sets state and texts (but the source's id) in one step; wakes those who wait. Called by the sender only, on its main thread.
    pub(crate) fn describe(&self, state: State, described: &Described) {
        if self.state.swap(state as u32, Ordering::AcqRel) != state as u32 {
            // SAFETY: reads the clock.
            self.state_since
                .store(unsafe { pg_sys::GetCurrentTimestamp() }, Ordering::Relaxed);
        }
        // SAFETY: the lock is a lightweight lock of ours, held while the texts are written; nothing in between can
        // raise an error.
        unsafe {
            pg_sys::LWLockAcquire(self.lock, pg_sys::LWLockMode::LW_EXCLUSIVE);
            let texts = &mut *self.texts.get();
            texts.waiting_for.set(&described.waiting_for);
            texts.oldest_gid.set(&described.oldest_gid);
            let (code, error, remedy) = match &described.trouble {
                Some(trouble) => (trouble.code.number(), &*trouble.message, &*trouble.remedy),
                None => (0, "", ""),
            };
            texts.error_code = code;
            texts.error.set(error);
            texts.remedy.set(remedy);
            pg_sys::LWLockRelease(self.lock);
        }
        self.announce();
    }

    pub(crate) fn described(&self) -> Described {
        // SAFETY: as in `describe`, with the lock shared.
        unsafe {
            pg_sys::LWLockAcquire(self.lock, pg_sys::LWLockMode::LW_SHARED);
            let texts = &*self.texts.get();
            let described = Described {
                source_id: texts.source_id.get(),
                waiting_for: texts.waiting_for.get(),
                oldest_gid: texts.oldest_gid.get(),
                trouble: Code::of_number(texts.error_code)
                    .map(|code| Trouble::new(code, texts.error.get(), texts.remedy.get())),
            };
            pg_sys::LWLockRelease(self.lock);
            described
        }
    }

    /// Publishes where the sender's latch is, or that there is none. Main thread of the sender.
    pub(crate) fn publish_sender(&self, present: bool) {
        // SAFETY: MyLatch and MyProcPid are this process's own; a process latch lies in shared memory.
        let (latch, pid) = unsafe {
            if present {
                (pg_sys::MyLatch, pg_sys::MyProcPid)
            } else {
                (std::ptr::null_mut(), 0)
            }
        };
        self.sender_pid.store(pid, Ordering::Release);
        self.sender_latch.store(latch, Ordering::Release);
    }

    /// Wakes the sender if it sleeps. Safe in a commit callback: no allocation, no lock, no error.
    #[inline]
    pub(crate) fn wake_sender(&self) {
        if !self.listening.load(Ordering::SeqCst) || !self.listening.swap(false, Ordering::SeqCst) {
            return;
        }
        let latch = self.sender_latch.load(Ordering::Acquire);
        if !latch.is_null() {
            // SAFETY: process latches are never unmapped; one whose owner is gone is set without effect.
            unsafe { pg_sys::SetLatch(latch) };
        }
    }

    /// Wakes the sender whatever it does. Not for commit callbacks, only because it costs a system call.
    pub(crate) fn call_sender(&self) {
        let latch = self.sender_latch.load(Ordering::Acquire);
        if !latch.is_null() {
            // SAFETY: as in `wake_sender`.
            unsafe { pg_sys::SetLatch(latch) };
        }
    }

    /// Runs `body` while nobody else changes the orders. It must not raise an ERROR of PostgreSQL.
    pub(crate) fn with_orders<R>(&self, body: impl FnOnce() -> R) -> R {
        // SAFETY: a lightweight lock of ours, released on the only way out.
        unsafe {
            pg_sys::LWLockAcquire(self.orders_lock, pg_sys::LWLockMode::LW_EXCLUSIVE);
            let result = body();
            pg_sys::LWLockRelease(self.orders_lock);
            result
        }
    }

    /// What the sender's threads read and write here.
    pub(crate) fn host(&'static self) -> Host {
        Host {
            topic_counters: &self.topic_counters,
            snapshots: &self.snapshots,
            skipped_events: &self.skipped_events,
        }
    }

    /// Up to where nothing is left to send, or to give up.
    pub(crate) fn passed_lsn(&self) -> u64 {
        let sent_lsn = self.sent_lsn.load(Ordering::Acquire);
        sent_lsn.max(self.done_lsn.load(Ordering::Acquire))
    }

    /// Tells the sender that a commit record ends at `lsn`.
    #[inline]
    pub(crate) fn announce_commit(&self, lsn: u64) {
        self.wake_lsn.fetch_max(lsn, Ordering::SeqCst);
        self.wake_sender();
    }

    /// Notes when the first commit was that Kafka has not got, should the sender not be there to know.
    #[inline]
    pub(crate) fn note_unsent(&self, commit_us: impl FnOnce() -> i64) {
        if self.unsent_since.load(Ordering::Relaxed) == 0 {
            self.unsent_since.store(commit_us(), Ordering::Relaxed);
        }
    }

    /// Tells the sender, now and then, that the WAL grows.
    #[inline]
    pub(crate) fn tell_of_wal(&self, lsn: u64) {
        if lsn > self.look_lsn.load(Ordering::Relaxed) {
            self.wake_sender();
        }
    }

    /// Called by the sender: before it looks at `wake_lsn` for the last time and sleeps, and after.
    pub(crate) fn listen(&self, listening: bool) {
        self.listening.store(listening, Ordering::SeqCst);
    }

    /// Lets all counters begin at zero.
    pub(crate) fn reset_counters(&self) {
        let set = |before: &AtomicU64, now: &AtomicU64| {
            before.store(now.load(Ordering::Relaxed), Ordering::Relaxed);
        };
        set(&self.events_before, &self.events);
        set(&self.bytes_before, &self.bytes);
        set(&self.transactions_before, &self.transactions);
        for counter in [&self.resent, &self.rejected_messages, &self.uncovered_rows] {
            counter.store(0, Ordering::Relaxed);
        }
        self.topic_counters.reset();
        // SAFETY: reads the clock.
        let now = unsafe { pg_sys::GetCurrentTimestamp() };
        self.stats_reset.store(now, Ordering::Relaxed);
    }

    /// Wakes those who wait for the sender's progress.
    pub(crate) fn announce(&self) {
        // SAFETY: initialised at start; broadcasting takes only the variable's own spinlock.
        unsafe { pg_sys::ConditionVariableBroadcast(self.moved.get()) };
    }

    /// Sleeps until `ready` says so or `timeout_ms` has passed; returns whether it is ready. Interruptible.
    pub(crate) fn wait_until(&self, timeout_ms: i64, mut ready: impl FnMut() -> bool) -> bool {
        let moved = self.moved.get();
        let start = std::time::Instant::now();
        let wait_event = WaitEvent::Sent.info();
        // SAFETY: the variable was initialised at start; sleeping is cancelled on every way out, and PostgreSQL cancels
        // it itself when a statement is ended by an interrupt.
        unsafe {
            pg_sys::ConditionVariablePrepareToSleep(moved);
            let mut done = ready();
            while !done {
                let left_ms =
                    timeout_ms - i64::try_from(start.elapsed().as_millis()).unwrap_or(i64::MAX);
                if left_ms <= 0 {
                    break;
                }
                pg_sys::ConditionVariableTimedSleep(moved, left_ms, wait_event);
                done = ready();
            }
            pg_sys::ConditionVariableCancelSleep();
            done
        }
    }
}

/// What keeps the sender from its work, as DETAIL and HINT: for those who may know of the whole server. Others have the
/// trouble's own remedy.
pub(crate) fn about_sender(mut trouble: Trouble, shared: &Shared, is_monitor: bool) -> Trouble {
    if !is_monitor {
        trouble.remedy =
            "Ask somebody with the rights of pg_monitor to look at cdc_status().".to_owned();
        return trouble;
    }
    if let Some(of_sender) = shared.described().trouble {
        trouble.remedy = of_sender.remedy;
        trouble.detail = Some(format!("{}: {}", of_sender.code, of_sender.message));
    }
    trouble
}
