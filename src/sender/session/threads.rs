//! The threads of a session, and how they end before the process does.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::Receiver;
use pgrx::pg_sys;
use shipper::board::Board;
use shipper::threads::spawn;
use shipper::work::Work;
use shipper::{delivery, position};

use crate::sender::abort;
use crate::sender::sleep::pause;
use crate::sender::wal::slot;
use crate::shared;

/// How long the threads may take to end before the process goes without them.
const STOP_TIMEOUT: Duration = Duration::from_secs(3);

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

/// Starts the threads of a session, of which one takes `work`. Those that could be started are known, also where not all could.
pub(super) fn start_threads(
    session: shipper::session::Session,
    work: Receiver<Work>,
) -> std::io::Result<()> {
    let board = Arc::clone(&session.board);
    let started = without_signals(|| {
        let of_position = (!session.settings.exactly_once).then(|| session.clone());
        let kafka = spawn("cdc kafka", Arc::clone(&board), move || {
            delivery::run(&session, &work)
        });
        let position = of_position.map(|session| {
            spawn("cdc position", Arc::clone(&board), move || {
                position::thread::run(&session)
            })
        });
        [Some(kafka), position]
    });
    let (mut handles, mut result) = (Vec::new(), Ok(()));
    for thread in started.into_iter().flatten() {
        match thread {
            Ok(handle) => handles.push(handle),
            Err(error) => result = Err(error),
        }
    }
    THREADS.with_borrow_mut(|threads| *threads = Some(Threads { board, handles }));
    result
}

/// First at every exit: the slot, for the checkpointer may be waiting for it; then the producers.
#[pgrx::pg_guard]
pub unsafe extern "C-unwind" fn leave(_code: i32, _arg: pg_sys::Datum) {
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
pub unsafe extern "C-unwind" fn leave_for_good(code: i32, _arg: pg_sys::Datum) {
    if THREADS_LEFT.load(Ordering::Acquire) {
        // SAFETY: shared memory was left in order before; nothing after this callback is needed.
        unsafe { libc::_exit(code) };
    }
}

/// Ends the threads of a session that is followed by another: two producers must never be alive, so this waits as long
/// as it takes. Should the process be asked to end meanwhile, the exit callback takes over.
pub(super) fn end_threads() {
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
