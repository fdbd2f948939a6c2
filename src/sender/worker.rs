//! The background worker: its start, and its sessions one after the other.
//!
//! It never exits to start again: a process that is gone cannot hold the slot. What cannot go on becomes a state with
//! its remedy, and the worker waits in it.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use change::code::Code;
use change::trouble::Trouble;
use pgrx::bgworkers::{BackgroundWorkerBuilder, BgWorkerStartTime};
use pgrx::pg_sys;
use pgrx::prelude::*;
use shipper::files::local_position::LocalPosition;
use shipper::files::orders::{Hold, Orders};
use shipper::files::source::Source;
use shipper::restarts::Restarts;

use super::abort;
use super::main_thread::{Counted, End, Sender, TICK, unreadable_file};
use super::orders;
use super::rejections::Rejections;
use super::session::opening;
use super::session::threads::{leave, leave_for_good};
use super::sleep::reload_if_asked;
use super::sleep::{interrupts, sleep};
use super::source;
use super::wal::bound::WalBound;
use super::wal::slot::Slot;
use crate::ffi;
use crate::settings;
use crate::shared::{self, Described, State};
use crate::snapshot::launcher::Launcher;

/// A halted sender looks again whether what it halted for was put right.
const LOOK_AGAIN: Duration = Duration::from_secs(30);

/// Registers the worker; at server start only.
pub(crate) fn register() {
    BackgroundWorkerBuilder::new("pg_cdc sender")
        .set_type("pg_cdc sender")
        .set_library("pg_cdc")
        .set_function("pg_cdc_sender_main")
        .enable_spi_access()
        .set_start_time(BgWorkerStartTime::RecoveryFinished)
        .set_restart_time(Some(Duration::from_secs(1)))
        .load();
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
        restarts: Restarts::default(),
    };
    run(&mut sender);
}

fn run(sender: &mut Sender) -> ! {
    let mut source = loop {
        match load_source(sender) {
            Ok(source) => break source,
            Err(trouble) => stay(sender, State::Halted, &trouble),
        }
    };
    loop {
        interrupts();
        reload_if_asked();
        sender.shared.set_source_id(&source.source_id);
        let generation = u32::from(source.generation);
        sender
            .shared
            .generation
            .store(generation, Ordering::Relaxed);
        match begin(sender, &mut source) {
            End::Again => {}
            End::Rewind => {
                let pause = sender.restarts.pause();
                rest(sender, pause);
            }
            End::Panicked(trouble) => match sender.restarts.panicked(trouble) {
                Ok(pause) => rest(sender, pause),
                Err(trouble) => {
                    stay(sender, State::Halted, &trouble);
                    sender.restarts.begin_anew();
                }
            },
            End::Stay(state, trouble) => stay(sender, state, &trouble),
            End::Held => stay_held(sender),
        }
    }
}

/// What people ordered comes first, then a session.
fn begin(sender: &mut Sender, source: &mut Source) -> End {
    let prepared = sender.take_orders().and_then(|_| adopt(sender, source));
    let prepared = prepared.and_then(|()| {
        sender.remembered = LocalPosition::read().map_err(|error| unreadable_file(&error))?;
        if let Some(known) = &sender.remembered {
            let sent_lsn = &sender.shared.sent_lsn;
            sent_lsn.fetch_max(known.commit_lsn, Ordering::AcqRel);
        }
        Ok(())
    });
    match prepared {
        Ok(()) => opening::open(sender, source),
        Err(trouble) => End::Stay(State::Halted, trouble),
    }
}

/// The server is the source that it seems to be, somebody says: it goes on one generation later.
fn adopt(sender: &mut Sender, source: &mut Source) -> Result<(), Trouble> {
    if sender.orders.adoption.is_none() {
        return Ok(());
    }
    let adopted = source.next_generation().and_then(|next| {
        LocalPosition::forget()?;
        orders::change(sender.shared, |orders| orders.adoption = None)?;
        Ok(next)
    });
    *source = adopted.map_err(|error| unreadable_file(&error))?;
    pgrx::log!(
        "pg_cdc: source {} is adopted, generation {}",
        source.source_id,
        source.generation
    );
    sender.take_orders().map(drop)
}

/// Who this source is; everybody is told. Until that is known nothing can be sent, but nothing is let go either.
fn load_source(sender: &mut Sender) -> Result<Source, Trouble> {
    let error = match source::load_or_create() {
        Ok(source) => {
            sender.shared.set_source_id(&source.source_id);
            return Ok(source);
        }
        Err(error) => error,
    };
    let mut message = format!("the source's identity cannot be read or made: {error}");
    if sender.slot.is_none() && !settings::text(&settings::BROKERS).is_empty() {
        match Slot::hold(&settings::text(&settings::SOURCE_NAME)) {
            Ok(slot) => sender.slot = Some(slot),
            Err(trouble) => message.push_str(&format!("; and no WAL is held: {trouble}")),
        }
    }
    Err(Trouble::new(
        Code::PositionNotTrusted,
        message,
        source::remedy(&error),
    ))
}

/// Waits before the next session, unless settings or orders change.
fn rest(sender: &mut Sender, time: Duration) {
    let start = Instant::now();
    while let Some(left) = time
        .checked_sub(start.elapsed())
        .filter(|left| !left.is_zero())
        && !reload_if_asked()
        && !sender.has_new_orders()
    {
        sleep(left.clamp(Duration::from_millis(1), TICK));
        sender.tend();
    }
}

/// Waits in a state that only a changed setting, an order, or a person, ends.
fn stay(sender: &mut Sender, state: State, trouble: &Trouble) {
    sender.describe(state, &trouble.remedy, Some(trouble));
    sender.obey();
    let start = Instant::now();
    // Slots and topics may be put right without a reload: look again now and then. A fenced sender stays down until
    // somebody says otherwise, else two servers would fence each other in turns. So does one with a fault of its own: each
    // try sends events again.
    let waits_for_somebody = state == State::Fenced || trouble.code == Code::SenderPanicked;
    while !reload_if_asked()
        && !sender.has_new_orders()
        && (waits_for_somebody || start.elapsed() < LOOK_AGAIN)
    {
        sleep(TICK);
        sender.tend();
    }
}

/// Waits for the order that ends a pause, or what a drain left.
fn stay_held(sender: &mut Sender) {
    let (state, by) = match &sender.orders.hold {
        Some(Hold::Pause { by }) => (State::Paused, by),
        Some(Hold::Drain { by, .. }) => (State::Drained, by),
        None => return,
    };
    let mut waiting_for = format!("cdc_resume(); ordered by {} at {}", by.role, by.at);
    if let Some(reason) = &by.reason {
        waiting_for.push_str(&format!(": {reason}"));
    }
    sender.describe(state, &waiting_for, None);
    sender.obey();
    while !sender.has_new_orders() {
        reload_if_asked();
        sleep(TICK);
        sender.tend();
    }
}
