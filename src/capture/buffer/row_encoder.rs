//! A captured row as a record.

use std::cell::Cell;
use std::time::{Duration, Instant};

use change::code::Code;
use change::trouble::Trouble;
use change::wal::record;
use pgrx::pg_sys;

use super::captured::Captured;
use crate::capture::image::{self, Changes, Deformed, Limits, TooLarge};
use crate::capture::plan::table_plan::Plan;
use crate::report::Raise;
use crate::reserve::reserve;

/// Encodes rows. Kept, for its buffers are used again and again.
#[derive(Default)]
pub(super) struct RowEncoder {
    old: Deformed,
    new: Deformed,
}

impl RowEncoder {
    /// Appends what comes behind the head of a row's record, which begins at `start`, and ends the record. Returns what an
    /// UPDATE changed; of others, that they are to be kept.
    ///
    /// # Safety
    /// The tuples belong to a relation with this plan and descriptor and are still there; the backend is in a
    /// transaction.
    #[inline]
    pub(super) unsafe fn put(
        &mut self,
        data: &mut Vec<u8>,
        start: usize,
        plan: &Plan,
        descriptor: pg_sys::TupleDesc,
        row: &Captured<'_>,
    ) -> Changes {
        // SAFETY: as the caller promises.
        unsafe {
            match row {
                Captured::Inserted(tuple)
                | Captured::Deleted(tuple)
                | Captured::LeftFilter(tuple)
                | Captured::EnteredFilter(tuple) => {
                    self.new.deform(*tuple, descriptor, plan);
                    self.put_image(data, plan);
                }
                Captured::Updated { old, new } => {
                    self.old.deform(*old, descriptor, plan);
                    self.new.deform(*new, descriptor, plan);
                    // It ends the record.
                    return within_limits(plan, data, |data, limits| {
                        image::put_update(data, plan, start, &self.old, &self.new, limits)
                    });
                }
                Captured::Found { tuple, descriptor } => {
                    self.new.spread(*tuple, *descriptor, plan);
                    self.put_image(data, plan);
                }
                Captured::ChunkBegin(begin) => {
                    reserve(data, begin.capacity());
                    begin.put(data);
                }
                Captured::ChunkEnd(end) => {
                    reserve(data, end.capacity());
                    end.put(data);
                }
                Captured::Truncated => {}
                Captured::SchemaChanged(change) => {
                    reserve(data, change.len());
                    data.extend_from_slice(change.as_bytes());
                }
                Captured::Emitted(emission) => {
                    reserve(data, emission.capacity());
                    emission.put(data);
                }
            }
        }
        record::end_record(data, start);
        Changes {
            any: true,
            key: false,
        }
    }

    /// Appends the image of the newly deformed tuple.
    #[inline]
    unsafe fn put_image(&self, data: &mut Vec<u8>, plan: &Plan) {
        within_limits(plan, data, |data, limits| {
            // SAFETY: the caller has just deformed a row of the plan's relation.
            unsafe { image::put_image(data, plan, &self.new, limits) }
        });
    }
}

/// Appends images, again and again with lower limits until the row is not too large (CDC0204).
#[inline]
fn within_limits<R>(
    plan: &Plan,
    data: &mut Vec<u8>,
    put: impl Fn(&mut Vec<u8>, Limits) -> Result<R, TooLarge>,
) -> R {
    let images = data.len();
    let mut limits = Limits::of_setting();
    loop {
        match put(data, limits) {
            Ok(done) => {
                if limits.has_stubs() {
                    tell_of_stub(plan, limits);
                }
                return done;
            }
            Err(TooLarge) => {
                data.truncate(images);
                limits = limits.lowered();
            }
        }
    }
}

/// Says so in the log, once a second: it is the writer's choice how often it happens.
#[cold]
fn tell_of_stub(plan: &Plan, limits: Limits) {
    const ONE_LINE_EVERY: Duration = Duration::from_secs(1);
    thread_local! {
        static TOLD: Cell<(Option<Instant>, u64)> = const { Cell::new((None, 0)) };
    }
    let (told_at, more) = TOLD.get();
    if told_at.is_some_and(|at| at.elapsed() < ONE_LINE_EVERY) {
        TOLD.set((told_at, more + 1));
        return;
    }
    TOLD.set((Some(Instant::now()), 0));
    let mut report = shipped_as_stub(plan, limits);
    if let (1.., Some(detail)) = (more, &mut report.detail) {
        detail.push_str(&format!(
            " So it was with {more} more rows of this session."
        ));
    }
    report.log();
}

fn shipped_as_stub(plan: &Plan, limits: Limits) -> Trouble {
    Trouble::new(
        Code::ValueStubbed,
        format!("a value of table \"{}\" is shipped as a stub", plan.name),
        "Raise cdc.max_value_size, or exclude the column, if readers need the value or do not need the stub.",
    )
    .detail(format!(
        "Values of a row are shipped up to {} bytes.",
        limits.value_bytes()
    ))
}
