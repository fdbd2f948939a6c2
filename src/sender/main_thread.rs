//! The worker's main thread, over all its sessions: what it holds, what it says of itself, and what people ordered.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use change::code::Code;
use change::position::lsn_text;
use change::trouble::Trouble;
use pgrx::pg_sys;
use shipper::files::local_position::LocalPosition;
use shipper::files::orders::{Aside, Hold, Orders};
use shipper::restarts::Restarts;
use shipper::trouble::Failure;

use super::orders;
use super::rejections::Rejections;
use super::wal::bound::WalBound;
use super::wal::reader::{end_of_wal, flushed, is_there};
use super::wal::slot::Slot;
use crate::report::Raise;
use crate::shared::{Described, Shared, State};
use crate::snapshot::launcher::Launcher;

/// Upper bound on how late the sender notices something that no latch announces.
pub(super) const TICK: Duration = Duration::from_secs(1);
/// The same where nothing happens at all.
pub(super) const IDLE_TICK: Duration = Duration::from_secs(5);

/// What was counted by sessions that are over, of earlier senders too.
pub(crate) struct Counted {
    pub events: u64,
    pub bytes: u64,
    pub transactions: u64,
}

impl Counted {
    pub(crate) fn so_far(shared: &Shared) -> Counted {
        Counted {
            events: shared.events.load(Ordering::Relaxed),
            bytes: shared.bytes.load(Ordering::Relaxed),
            transactions: shared.transactions.load(Ordering::Relaxed),
        }
    }
}

/// The worker's main thread, over all its sessions.
pub(crate) struct Sender {
    pub shared: &'static Shared,
    pub described: Described,
    pub slot: Option<Slot>,
    /// The slot holds the WAL from where reading goes on.
    pub is_placed: bool,
    pub counted: Counted,
    pub launcher: Launcher,
    pub bound: WalBound,
    pub tended_at: Option<Instant>,
    pub orders: Orders,
    pub orders_read: bool,
    /// What the server remembers of the position.
    pub remembered: Option<LocalPosition>,
    /// Of batches, as far as a topic's limit is known to ask for it.
    pub max_batch_bytes: Option<usize>,
    /// Of records, for topics that do not tell what they take and have refused larger ones.
    pub smaller_in: BTreeMap<String, usize>,
    /// Forged messages, for the log.
    pub rejections: Rejections,
    /// The gap that is waiting to be accepted.
    pub gap: Option<(u64, u64)>,
    /// How sessions that ended by themselves are followed.
    pub restarts: Restarts,
}

/// Why a session ended.
pub(crate) enum End {
    /// Settings or orders changed.
    Again,
    /// The producers must be made anew.
    Rewind,
    /// A thread panicked.
    Panicked(Trouble),
    /// Wait for a person, in this state.
    Stay(State, Trouble),
    /// Nothing is to be sent, by order.
    Held,
}

impl Sender {
    /// Reads the orders where there are new ones; whether any came that only a new session takes up.
    pub(crate) fn take_orders(&mut self) -> Result<bool, Trouble> {
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
    pub(crate) fn obey(&self) {
        self.shared
            .obeyed
            .fetch_max(self.orders.number, Ordering::SeqCst);
        self.shared.announce();
    }

    pub(crate) fn has_new_orders(&self) -> bool {
        self.shared.ordered.load(Ordering::SeqCst) > self.orders.number
    }

    /// Notes for good that a topic is put aside, and says so once.
    pub(crate) fn put_aside(&mut self, aside: Aside) -> Result<(), Trouble> {
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
        Trouble {
            message: format!("topic is put aside: {}", aside.trouble.message),
            ..aside.trouble
        }
        .detail("Nothing more of it is sent; the others go on. See cdc_aside.")
        .log();
        Ok(())
    }

    /// What a session ends with that failed, with so many events on their way.
    pub(crate) fn after(&mut self, failure: Failure, unacknowledged_events: u64) -> End {
        if let Failure::Rewind(_) | Failure::Panicked(_) = failure {
            let resent = &self.shared.resent;
            resent.fetch_add(unacknowledged_events, Ordering::Relaxed);
        }
        match failure {
            Failure::Rewind(trouble) => {
                self.describe(State::WaitingForKafka, "Kafka", Some(&trouble));
                End::Rewind
            }
            Failure::Panicked(trouble) => {
                self.describe(State::Starting, "the next try", Some(&trouble));
                End::Panicked(trouble)
            }
            Failure::Smaller(max_batch_bytes) => {
                pgrx::log!(
                    "pg_cdc: batches have at most {max_batch_bytes} bytes from now on: a topic takes no larger ones"
                );
                self.max_batch_bytes = Some(max_batch_bytes);
                End::Rewind
            }
            Failure::SmallerIn(topic, max_record_bytes) => {
                self.smaller_in.insert(topic, max_record_bytes);
                End::Rewind
            }
            Failure::Aside(aside) => match self.put_aside(*aside) {
                Ok(()) => End::Rewind,
                Err(trouble) => End::Stay(State::Halted, trouble),
            },
            Failure::Halt(trouble) => End::Stay(State::Halted, trouble),
            Failure::Fenced(trouble) => End::Stay(State::Fenced, trouble),
        }
    }

    /// Everything before the order is in Kafka: notes that the drain is done, whether that could be written.
    pub(crate) fn note_drained(&self) -> bool {
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
    pub(crate) fn tend(&mut self) {
        if self.tended_at.is_some_and(|at| at.elapsed() < TICK) {
            return;
        }
        self.tended_at = Some(Instant::now());
        if let Some(slot) = self.slot.as_mut() {
            self.bound.tend(self.shared, slot);
        }
    }

    /// The WAL that is needed next, as far as this server knows, may be gone before Kafka comes back.
    pub(crate) fn lost_wal(&mut self) -> Option<End> {
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
    pub(crate) fn gap_is_over(&mut self) {
        if self.gap.take().is_some() {
            self.shared.gap_from.store(0, Ordering::Relaxed);
            self.shared.gap_to.store(0, Ordering::Relaxed);
        }
    }

    /// Whether reading has come past the gap.
    pub(crate) fn is_past_gap(&self, read_lsn: u64) -> bool {
        self.gap.is_some_and(|(from, _)| read_lsn > from)
    }

    /// The state `gap`: WAL from `from` to where the slot holds it is gone.
    pub(crate) fn gap(&mut self, from: u64, why: &str) -> End {
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
            Trouble::new(
                Code::WalGone,
                format!("WAL from {from} to {to} is gone: {why}"),
                format!(
                    "Restore the missing segments into pg_wal, or SELECT * FROM cdc_accept_gap('{from}', '{to}', 'why') and do what it lists."
                ),
            ),
        )
    }

    /// What is captured from now on is not lost.
    pub(crate) fn publish_slot(&self) {
        let restart_lsn = self.slot.as_ref().map_or(0, Slot::restart_lsn);
        let shared = self.shared;
        shared.restart_lsn.store(restart_lsn, Ordering::Relaxed);
        shared.slot_ready.store(1, Ordering::Release);
    }

    pub(crate) fn describe(&mut self, state: State, waiting_for: &str, trouble: Option<&Trouble>) {
        let unchanged = trouble.is_none()
            && state == self.shared.state()
            && self.described.trouble.is_none()
            && self.described.waiting_for == waiting_for;
        if unchanged {
            return;
        }
        let described = Described {
            waiting_for: waiting_for.to_owned(),
            trouble: trouble.cloned(),
            ..self.described.clone()
        };
        if described == self.described && state == self.shared.state() {
            return;
        }
        if let Some(trouble) = trouble.filter(|trouble| {
            let told = self.described.trouble.as_ref();
            told.is_none_or(|told| told.message != trouble.message)
        }) {
            // SAFETY: reads the clock.
            self.shared
                .error_at
                .store(unsafe { pg_sys::GetCurrentTimestamp() }, Ordering::Relaxed);
            let of_state = format!("The sender is in state \"{}\".", state.name());
            trouble.clone().detail(of_state).log();
        }
        self.described = described;
        self.shared.describe(state, &self.described);
        show_activity(state, trouble.map(|trouble| trouble.code));
    }

    /// Says which prepared transaction is the oldest open one, empty for none.
    pub(crate) fn describe_oldest(&mut self, gid: &str) {
        if self.described.oldest_gid != gid {
            gid.clone_into(&mut self.described.oldest_gid);
            self.shared.describe(self.shared.state(), &self.described);
        }
    }
}

/// Shows the state in `pg_stat_activity.query`.
fn show_activity(state: State, error_code: Option<Code>) {
    let text = match error_code {
        None => state.name().to_owned(),
        Some(code) => format!("{} [{code}]", state.name()),
    };
    if let Ok(text) = std::ffi::CString::new(text) {
        // SAFETY: on the main thread; the text is ASCII and copied.
        unsafe { pg_sys::pgstat_report_activity(pg_sys::BackendState::STATE_IDLE, text.as_ptr()) };
    }
}

/// CDC0405: a file of ours in the data directory.
pub(super) fn unreadable_file(error: &std::io::Error) -> Trouble {
    Trouble::new(
        Code::PositionNotTrusted,
        format!(
            "a file in the folder pg_cdc of the data directory cannot be read or written: {error}"
        ),
        "See that the server can write the folder pg_cdc in its data directory.",
    )
}
