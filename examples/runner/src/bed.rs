//! The servers of this run, what was started on them, and the end of it all.

use std::any::Any;
use std::io::IsTerminal;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, OnceLock};

use pg_cdc_tests::bed::Ports;
use pg_cdc_tests::{TestBed, port};

use crate::screen::Screen;

static BED: OnceLock<TestBed> = OnceLock::new();
/// What runs on the bed, and ends when it is dropped.
static KEPT: Mutex<Vec<Box<dyn Any + Send>>> = Mutex::new(Vec::new());
static STOPPING: AtomicBool = AtomicBool::new(false);
/// Whether the ports are those that documents name.
static IS_DEMO: AtomicBool = AtomicBool::new(false);

/// The bed, with nothing running: each server starts at its first use.
pub(crate) fn prepare(ports: Ports) -> &'static TestBed {
    BED.get_or_init(|| TestBed::prepare(ports, &[], &[]))
}

/// The ports of the demo, below the range from which the kernel takes the local ports of outgoing connections.
pub(crate) fn demo_ports() -> Ports {
    IS_DEMO.store(true, Ordering::Relaxed);
    Ports {
        source: port::chosen("PG_CDC_POSTGRES_PORT", 15432),
        target: port::chosen("PG_CDC_REPLICA_PORT", 15433),
        kafka: port::chosen("PG_CDC_KAFKA_PORT", 19092),
        ferretdb: port::chosen("PG_CDC_MONGO_PORT", 17017),
    }
}

/// Whether somebody is to look at it.
pub(crate) fn is_demo() -> bool {
    IS_DEMO.load(Ordering::Relaxed)
}

/// A port for a part of an example: in the demo the one in this environment variable, else `preferred`, or a free one when that
/// is taken; in a check any free one.
pub(crate) fn port(variable: &str, preferred: u16) -> u16 {
    match is_demo() {
        true => port::chosen(variable, preferred),
        false => port::free(),
    }
}

/// Keeps something until the end, where it is dropped before the servers stop.
pub(crate) fn keep(running: Box<dyn Any + Send>) {
    KEPT.lock().expect("what is kept").push(running);
}

/// Says how to end, and waits for it: the end is [`stop_on_signal`]'s.
pub(crate) fn wait_for_ctrl_c(screen: &Screen) -> bool {
    screen.line(" Ctrl-C stops everything; nothing of this machine's own services was touched.");
    loop {
        std::thread::park();
    }
}

/// Ends everything that was started, the newest first, and removes its files.
pub(crate) fn stop() {
    static STOPPED: AtomicBool = AtomicBool::new(false);
    if STOPPED.swap(true, Ordering::Relaxed) {
        return;
    }
    loop {
        let newest = KEPT.lock().expect("what is kept").pop();
        if newest.is_none() {
            break;
        }
    }
    if let Some(bed) = BED.get() {
        bed.stop();
        bed.discard();
    }
}

/// A panic is a message, in one colour with the rest.
pub(crate) fn say_panics() {
    std::panic::set_hook(Box::new(|panic| {
        if !STOPPING.load(Ordering::Relaxed) {
            let text = panic.payload_as_str().unwrap_or("the demo failed");
            eprintln!("{} ✗ {}", clear_line(), text.replace('\n', "\n   "));
        }
    }));
}

/// Ctrl-C and SIGTERM end everything in order. Servers in the middle of their start are ended by the kernel.
pub(crate) fn stop_on_signal() {
    // SAFETY: the set is initialised by sigemptyset before use; no other thread runs yet, so all later ones inherit it.
    let signals = unsafe {
        let mut signals: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut signals);
        libc::sigaddset(&mut signals, libc::SIGINT);
        libc::sigaddset(&mut signals, libc::SIGTERM);
        libc::sigaddset(&mut signals, libc::SIGHUP);
        libc::pthread_sigmask(libc::SIG_BLOCK, &signals, std::ptr::null_mut());
        signals
    };
    std::thread::spawn(move || {
        let mut signal = 0;
        // SAFETY: both point to what lives on this stack.
        unsafe { libc::sigwait(&signals, &mut signal) };
        STOPPING.store(true, Ordering::Relaxed);
        eprintln!("{} Stopping …", clear_line());
        stop();
        // As a shell reports a program that was ended by this signal.
        std::process::exit(if signal == libc::SIGINT {
            0
        } else {
            128 + signal
        });
    });
}

/// Removes the spinner's line or the ^C from a terminal.
fn clear_line() -> &'static str {
    if std::io::stderr().is_terminal() {
        "\r\x1b[K"
    } else {
        ""
    }
}
