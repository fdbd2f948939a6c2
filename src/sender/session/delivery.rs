//! Hands transactions to the Kafka thread.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use change::event::commit::Commit;
use change::wal::assembly::{ChunkPlace, Committed};
use change::wal::message;
use change::wal::message::MessageError;
use change::wire::WireError;
use crossbeam_channel::TrySendError;
use shipper::files::orders::Hold;
use shipper::work::{Beginning, Work};

use crate::sender::main_thread::{End, TICK};
use crate::sender::session::reading::{Reading, Unread};
use crate::sender::session::stream::FINISH_TIMEOUT;
use crate::sender::session::{Interrupted, Session};

impl Session<'_> {
    /// Hands a transaction to the Kafka thread, waiting where its queue is full.
    pub(super) fn deliver(
        &mut self,
        committed: Committed,
        reading: &mut Reading,
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
            timeline: reading.timeline,
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
            self.deliver_sorted(&committed.chunks, reading)?;
        } else {
            for place in committed.chunks {
                let bytes = match place.bytes {
                    Some(bytes) => bytes,
                    None => self.read_again(&place, reading)?,
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
        reading: &mut Reading,
    ) -> Result<(), Interrupted> {
        // The newest bodies, as far as memory allows.
        let limit = self.settings.memory_bytes / 4;
        let mut cache: VecDeque<(u32, Rc<Vec<u8>>)> = VecDeque::new();
        let mut cached_bytes = 0;
        let session = RefCell::new(self);
        change::wal::order::sort(
            chunks.len() as u32,
            limit,
            &mut |index| {
                if let Some((_, body)) = cache.iter().find(|(cached, _)| *cached == index) {
                    return Ok(Rc::clone(body));
                }
                let place = &chunks[index as usize];
                let read;
                let sealed = match &place.bytes {
                    Some(bytes) => bytes,
                    None => {
                        read = session.borrow_mut().read_again(place, reading)?;
                        &read
                    }
                };
                let mut body = Vec::new();
                let opened = message::read(sealed).and_then(|chunk| chunk.body_into(&mut body));
                opened.map_err(|error| {
                    Interrupted::Wire(match error {
                        MessageError::OutOfMemory => WireError::OutOfMemory,
                        _ => WireError::Invalid("chunk body"),
                    })
                })?;
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

    fn read_again(
        &mut self,
        place: &ChunkPlace,
        reading: &mut Reading,
    ) -> Result<Vec<u8>, Interrupted> {
        reading.read_again(place).map_err(|unread| match unread {
            Unread::Wire(error) => Interrupted::Wire(error),
            Unread::Wal(error) => Interrupted::End(self.unreadable(&error)),
        })
    }

    /// Puts work into the channel; while it is full, or too many bytes wait in it, looks after everything else.
    pub(super) fn push(&mut self, work: Work, bytes: usize) -> Result<(), Interrupted> {
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
            // A transaction is given to Kafka whole, if Kafka takes it within a moment.
            let must_leave =
                self.orders_changed || matches!(self.sender.orders.hold, Some(Hold::Pause { .. }));
            if must_leave
                && self.ending_since.get_or_insert_with(Instant::now).elapsed() > FINISH_TIMEOUT
            {
                return Err(Interrupted::End(End::Again));
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
}
