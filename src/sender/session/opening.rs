//! What comes before a session: the slot is held, nobody has ordered that nothing be sent, and the threads are started.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use change::mac_key::MacKey;
use change::trouble::Trouble;
use shipper::board::Board;
use shipper::files::local_position::LocalPosition;
use shipper::files::orders::Hold;
use shipper::files::source::{self as identity, Source};
use shipper::kafka::settings::KafkaSettings;
use shipper::progress::Progresses;
use shipper::session::Owner;
use shipper::trouble::{no_eventfd, no_thread};

use crate::cluster_secret::cluster_secret;
use crate::sender::kafka_settings::read_settings;
use crate::sender::main_thread::{End, Sender, unreadable_file};
use crate::sender::session::Session;
use crate::sender::session::threads::{end_threads, start_threads};
use crate::sender::sleep::{reload_if_asked, sleep};
use crate::sender::wal::reader::{flushed, is_there, timeline_start};
use crate::sender::wal::slot::Slot;
use crate::settings;
use crate::shared::State;

/// Work items in the channel; bytes are bounded apart.
const CHANNEL_ITEMS: usize = 4096;

/// One session: from settings to the first thing that ends it. The slot is held from the first one on.
pub(crate) fn open(sender: &mut Sender, source: &Source) -> End {
    if settings::text(&settings::BROKERS).is_empty() {
        wait_for_brokers(sender);
        return End::Again;
    }
    if !sender.is_placed
        && let Err(trouble) = place_slot(sender)
    {
        return End::Stay(State::Halted, trouble);
    }
    if is_held(sender) {
        return End::Held;
    }
    sender.describe(State::Starting, "Kafka", None);
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
    let of_threads = of_threads(sender, source, &kafka_settings, &board, &progresses);
    let mut session = Session::new(sender, source, board, work, progresses, kafka_settings);
    let end = match start_threads(of_threads, work_receiver) {
        Ok(()) => session.run(),
        Err(error) => End::Stay(State::Halted, no_thread(&error)),
    };
    session.count();
    end_threads();
    end
}

fn wait_for_brokers(sender: &mut Sender) {
    sender.describe(State::Unconfigured, "cdc.brokers to be set", None);
    sender.obey();
    while !reload_if_asked() && !sender.has_new_orders() {
        sleep(Duration::from_secs(60));
        sender.tend();
    }
}

/// Holds the WAL from where reading goes on, as far as this server knows.
fn place_slot(sender: &mut Sender) -> Result<(), Trouble> {
    let mut slot = match sender.slot.take() {
        Some(held) => held,
        None => Slot::hold(&settings::text(&settings::SOURCE_NAME))?,
    };
    let (timeline, _) = flushed();
    let begin = timeline_start(timeline);
    let is_promoted = sender
        .remembered
        .as_ref()
        .is_none_or(|known| known.timeline != timeline);
    // A promoted server takes changes before there is a slot, and the checkpoint with which a new slot begins may be
    // younger than they are.
    if is_promoted && begin != 0 && is_there(timeline, begin) {
        slot.hold_from(sender.shared, begin);
    }
    match &sender.remembered {
        Some(known) if is_there(timeline, known.restart_lsn) => {
            slot.hold_from(sender.shared, known.restart_lsn);
        }
        Some(_) => {}
        // From here on nothing may be missed, whatever becomes of the slot.
        None => {
            let known = LocalPosition::first(timeline, slot.restart_lsn());
            if let Err(error) = known.write() {
                // It stays held.
                sender.slot = Some(slot);
                return Err(unreadable_file(&error));
            }
            sender.remembered = Some(known);
        }
    }
    sender.slot = Some(slot);
    sender.is_placed = true;
    Ok(())
}

/// Whether nothing is to be sent, by order. What is captured is held all the same, unless the slot was to be dropped.
fn is_held(sender: &mut Sender) -> bool {
    if let Some(Hold::Drain {
        done: true,
        drop_slot: true,
        ..
    }) = sender.orders.hold
    {
        sender.shared.slot_ready.store(0, Ordering::Release);
        if let Some(slot) = sender.slot.take() {
            slot.drop_it(sender.shared);
        }
        sender.is_placed = false;
        return true;
    }
    sender.publish_slot();
    matches!(
        sender.orders.hold,
        Some(Hold::Pause { .. } | Hold::Drain { done: true, .. })
    )
}

/// What the threads are to know.
fn of_threads(
    sender: &Sender,
    source: &Source,
    settings: &KafkaSettings,
    board: &Arc<Board>,
    progresses: &Arc<Progresses>,
) -> shipper::session::Session {
    let (timeline, _) = flushed();
    let owner = Owner {
        source_id: source.source_id.clone(),
        generation: source.generation,
        node: identity::host_name(),
        timeline_start: timeline_start(timeline),
        remembered: sender.remembered.clone(),
    };
    let limit_bytes = sender.max_batch_bytes.unwrap_or(usize::MAX);
    shipper::session::Session {
        // Before anything is read: chunks of snapshots that an earlier session met are read again.
        number: sender.shared.session.fetch_add(1, Ordering::SeqCst) + 1,
        settings: settings.clone(),
        max_batch_bytes: settings.batch_bytes().min(limit_bytes),
        owner,
        key: MacKey::derive("pg_cdc 1 position", &cluster_secret()),
        board: Arc::clone(board),
        progresses: Arc::clone(progresses),
        host: sender.shared.host(),
    }
}
