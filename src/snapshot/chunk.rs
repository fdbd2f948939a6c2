//! Reads one chunk of a table into the WAL: the next rows in the order of the key, under one PostgreSQL snapshot.

use std::ffi::CStr;

use change::code::Code;
use change::options::{Mask, Options};
use change::trouble::Trouble;
use change::value::json::put_string;
use change::value::put_bounded;
use change::wal::relation::{Masked, Relation, relation_of};
use change::wal::snapshot_chunk::{ChunkBegin, ChunkEnd, Visibility};
use change::wire::WireError;
use pgrx::pg_sys;
use pgrx::prelude::*;
use pgrx::spi::quote_identifier;

use super::job::{Job, Place};
use super::key_order::KeyOrder;
use crate::capture::buffer::captured::Captured;
use crate::capture::datum::encode::put_datum;
use crate::capture::filter::row_filter;
use crate::capture::plan::table_plan::Plan;
use crate::capture::state::with_capture;
use crate::catalog::{name_of, tuple_attribute};
use crate::report::Raise;
use crate::text::{server_text, utf8};
use crate::tracked::own_trigger::{ROW_TRIGGER, Standing};
use crate::tracked::partitions::below;
use crate::tracked::table::Table;
use crate::tracked::untrusted::{copied_table, unsealed_table};

/// Rows that are fetched at once.
const FETCH_ROWS: i64 = 1000;

/// What a chunk was, once it is committed.
pub(crate) struct Read {
    pub rows: i64,
    /// The last row's key; none if there was no row.
    pub place: Option<Place>,
    /// No rows follow.
    pub end: bool,
}

/// Who reads: the worker's slot and what it knows of the sender.
pub(crate) struct Reader {
    pub slot: u32,
    pub session: u64,
    pub max_rows: i64,
}

/// Reads the chunk behind `job.place` and captures it, in the running transaction, which must do nothing else with
/// rows. The table is locked (ACCESS SHARE, which hinders no writer) before the snapshot is taken, so that no chunk is read
/// with a definition or contents from before a rewrite.
pub(crate) fn read(job: &Job, reader: &Reader) -> Read {
    lock_all(job.relation, pg_sys::AccessShareLock as pg_sys::LOCKMODE);
    let table = Table::at(job.relation);
    refuse_untracked(&table);
    // SAFETY: in a transaction that reads committed: every snapshot is a new one. Popped below; after an ERROR the
    // transaction's end pops it.
    unsafe { pg_sys::PushActiveSnapshot(pg_sys::GetTransactionSnapshot()) };
    let read =
        table.as_owner(|| table.with_trigger(|trigger| read_table(job, reader, &table, trigger)));
    // SAFETY: as above.
    unsafe { pg_sys::PopActiveSnapshot() };
    read.unwrap_or_else(|| not_tracked(&table).raise())
}

/// CDC0505.
pub(crate) fn not_tracked(table: &Table) -> Trouble {
    Trouble::new(
        Code::NotTracked,
        format!("table \"{}\" is not tracked", table.name),
        format!("SELECT cdc_track({}, snapshot => true).", table.argument()),
    )
}

/// CDC0505, CDC0107 and CDC0114: rows of a copy would go into the original's topic, those of a table whose trigger somebody
/// else made, wherever that says.
pub(crate) fn refuse_untracked(table: &Table) {
    let refusal = match table.tracked() {
        None => not_tracked(table),
        Some(tracked) => match tracked.standing {
            Standing::Here => return,
            Standing::Copy => copied_table(table),
            Standing::Unsealed => unsealed_table(table, ROW_TRIGGER),
        },
    };
    refusal.raise()
}

/// CDC0501.
pub(crate) fn no_key(table: &str) -> Trouble {
    Trouble::new(
        Code::NoSnapshotKey,
        format!("table \"{table}\" has no key to snapshot by"),
        "Add a primary key, or a unique index with NOT NULL columns as REPLICA IDENTITY, and ship its columns; or write the rows once more (UPDATE of all of them).",
    )
    .detail("A snapshot is read in the order of the key, so that it can go on where it was and writers are never locked out.")
}

/// Whether a table that is tracked with these options has a key to be read by: columns of an index that identifies its
/// rows, shipped so that no two rows look alike.
pub(crate) fn has_key(table: &Table, options: &Options) -> bool {
    let identity = table.identity(false);
    !identity.is_empty()
        && identity.iter().all(|column| {
            options.ships(column) && matches!(options.mask.get(column), None | Some(Mask::Hash))
        })
}

/// CDC0506.
fn out_of_order(table: &str) -> Trouble {
    Trouble::new(
        Code::KeysOutOfOrder,
        format!("rows of table \"{table}\" do not come in the order of their key"),
        "REINDEX the index of the key, and see that its values are unique; then call cdc_snapshot_resume.",
    )
    .detail("The index, or the operators of the key's type, contradict each other: rows could be left out, and a replica would delete them.")
}

/// Locks a table and its partitions, in the order in which PostgreSQL does.
fn lock_all(relation: pg_sys::Oid, mode: pg_sys::LOCKMODE) {
    // SAFETY: in a transaction; released with it.
    unsafe { pg_sys::LockRelationOid(relation, mode) };
    for partition in below(relation) {
        // SAFETY: as above. One that was detached or dropped meanwhile is no longer read.
        unsafe { pg_sys::LockRelationOid(partition, mode) };
    }
}

fn read_table(job: &Job, reader: &Reader, table: &Table, trigger: &pg_sys::TriggerData) -> Read {
    let query = with_capture(|capture| {
        // SAFETY: relation and trigger are open while the table is read.
        let plan = unsafe { capture.plans.plan(trigger) };
        if plan.silent {
            not_tracked(table).raise();
        }
        // SAFETY: as above.
        let descriptor = unsafe { (*trigger.tg_relation).rd_att };
        Query::new(job, reader, table, plan, descriptor)
    });
    let begin = ChunkBegin {
        snapshot_id: job.id,
        chunk: job.chunk + 1,
        session: reader.session,
        slot: reader.slot,
        visibility: current_visibility(),
        sinks: query.sinks.as_deref(),
    };
    capture(trigger, query.plan_id, &Captured::ChunkBegin(&begin));
    let (rows, place) = fetch(&query, table, trigger);
    let end = rows < reader.max_rows;
    let to = place.as_ref().filter(|_| !end);
    capture(
        trigger,
        query.plan_id,
        &Captured::ChunkEnd(&ChunkEnd {
            from: job.place.as_ref().map(|place| place.key.as_str()),
            to: to.map(|place| place.key.as_str()),
            partial: query.partial,
        }),
    );
    Read { rows, place, end }
}

fn capture(trigger: &pg_sys::TriggerData, plan_id: u64, what: &Captured<'_>) {
    with_capture(|capture| {
        // SAFETY: relation and trigger are open while the table is read; the transaction is the worker's.
        unsafe {
            let plan = capture.plans.plan(trigger);
            if plan.id != plan_id {
                // Columns cannot change, for the table is locked; what is shipped of them can.
                Trouble::new(
                    Code::OptionsChanged,
                    "options of the table changed while a chunk was read",
                    "Nothing: the chunk is read again.",
                )
                .raise();
            }
            let descriptor = (*trigger.tg_relation).rd_att;
            capture.buffer.capture(plan, descriptor, 0, what);
        }
    });
}

/// What the active snapshot sees.
fn current_visibility() -> Visibility {
    // SAFETY: a snapshot is active; its arrays have the lengths that it says. Ids are widened against the next one, as
    // pg_current_snapshot() does (utils/adt/xid8funcs.c).
    unsafe {
        let snapshot = &*pg_sys::GetActiveSnapshot();
        let next = pg_sys::ReadNextFullTransactionId().value;
        let widen = |xid: pg_sys::TransactionId| {
            let low = u64::from(u32::from(xid));
            let epoch = next & !0xffff_ffff;
            if epoch | low > next {
                (epoch | low).wrapping_sub(1 << 32)
            } else {
                epoch | low
            }
        };
        let in_progress = if snapshot.xcnt == 0 {
            Vec::new()
        } else {
            std::slice::from_raw_parts(snapshot.xip, snapshot.xcnt as usize)
                .iter()
                .map(|xid| widen(*xid))
                .collect()
        };
        Visibility {
            xmin: widen(snapshot.xmin),
            xmax: widen(snapshot.xmax),
            in_progress,
        }
    }
}

/// The statement of a chunk, and how its rows are read.
struct Query {
    text: String,
    /// Places of the key columns among the selected ones, as events have them.
    key: Vec<usize>,
    /// The order of the rows, and the numbers of its columns among the selected ones, from 1.
    order: KeyOrder,
    order_columns: Vec<i32>,
    partial: bool,
    sinks: Option<String>,
    plan_id: u64,
    /// The plan's entry for chunks, as capture copies it.
    blob: Vec<u8>,
}

impl Query {
    fn new(
        job: &Job,
        reader: &Reader,
        table: &Table,
        plan: &Plan,
        descriptor: pg_sys::TupleDesc,
    ) -> Query {
        let relation = relation_of(&plan.blob)
            .unwrap_or_else(|error| pgrx::error!("pg_cdc cannot read its own plan: {error}"));
        let key = relation
            .identity
            .clone()
            .unwrap_or_else(|| relation.key.clone());
        let order = KeyOrder::of(table).unwrap_or_else(|| no_key(&table.name).raise());
        // SAFETY: the relation is open; a plan's attributes are its descriptor's.
        let name = |column: usize| unsafe {
            name_of(tuple_attribute(descriptor, plan.columns[column].attribute))
        };
        let columns: Vec<String> = (0..plan.columns.len()).map(name).collect();
        let order_columns: Vec<i32> = order
            .names()
            .filter_map(|name| key.iter().copied().find(|column| columns[*column] == name))
            .map(|column| column as i32 + 1)
            .collect();
        // The chosen key of a table whose identity is not shipped identifies no row.
        if order_columns.len() != order.names().count() || key.len() != order_columns.len() {
            no_key(&table.name).raise();
        }
        let quoted: Vec<String> = columns.iter().map(quote_identifier).collect();
        let options = table.options().unwrap_or_default();
        let mut conditions = Vec::new();
        for filter in [Some(&options.filter), job.wanted.filter.as_ref()]
            .into_iter()
            .flatten()
            .filter(|filter| !filter.is_empty())
        {
            // What it names may have changed since it was accepted, and here it is run as it is written.
            // SAFETY: the relation is open and locked while the filter is prepared.
            let filter = table.read(|relation| unsafe {
                row_filter::check(std::ptr::from_ref(relation).cast_mut(), filter)
            });
            conditions.push(format!("(({filter}\n))"));
        }
        if let Some(place) = &job.place {
            if place.values.len() != order_columns.len() {
                no_key(&table.name).raise();
            }
            conditions.push(order.behind(&place.values));
        }
        let condition = if conditions.is_empty() {
            String::new()
        } else {
            format!("WHERE {}", conditions.join(" AND "))
        };
        let only = if is_partitioned(table) { "" } else { "ONLY " };
        let masked = |column: &usize| {
            let masked: Option<Masked> = relation.columns[*column].masked;
            masked.is_some()
        };
        Query {
            text: format!(
                "SELECT {} FROM {only}{} {condition} ORDER BY {} LIMIT {}",
                quoted.join(", "),
                table.sql_name(),
                order.order_by(),
                reader.max_rows
            ),
            partial: job.wanted.filter.is_some() || key.iter().any(masked),
            sinks: job
                .wanted
                .sinks
                .as_ref()
                .and_then(|sinks| serde_json::to_string(sinks).ok()),
            plan_id: plan.id,
            blob: plan.blob.clone(),
            key,
            order,
            order_columns,
        }
    }
}

fn is_partitioned(table: &Table) -> bool {
    // SAFETY: a catalog look-up inside the running transaction.
    unsafe { pg_sys::get_rel_relkind(table.oid) as u8 == b'p' }
}

/// Opens a read-only cursor of a statement.
///
/// # Safety
/// Connected to SPI.
unsafe fn open_cursor(statement: &str) -> pg_sys::Portal {
    let text = server_text(statement);
    // SAFETY: as the caller promises; PostgreSQL copies the text.
    unsafe {
        let plan = pg_sys::SPI_prepare(text.as_ptr(), 0, std::ptr::null_mut());
        if plan.is_null() {
            pgrx::error!("pg_cdc could not prepare a snapshot's statement");
        }
        pg_sys::SPI_cursor_open(
            std::ptr::null(),
            plan,
            std::ptr::null_mut(),
            std::ptr::null(),
            true,
        )
    }
}

/// Runs the statement and captures its rows; how many there were, and the last one's key.
fn fetch(query: &Query, table: &Table, trigger: &pg_sys::TriggerData) -> (i64, Option<Place>) {
    let relation = relation_of(&query.blob)
        .unwrap_or_else(|error| pgrx::error!("pg_cdc cannot read its own plan: {error}"));
    let mut rows = 0;
    let mut place = None;
    Spi::connect_mut(|_client| {
        // SAFETY: connected to SPI. A read-only cursor uses the active snapshot, the one that the chunk carries. Tuples
        // are used before they are freed; what encoding a row allocates goes with the row.
        unsafe {
            let scratch = pg_sys::AllocSetContextCreateInternal(
                pg_sys::CurrentMemoryContext,
                c"pg_cdc snapshot row".as_ptr(),
                pg_sys::ALLOCSET_DEFAULT_MINSIZE as usize,
                pg_sys::ALLOCSET_DEFAULT_INITSIZE as usize,
                pg_sys::ALLOCSET_DEFAULT_MAXSIZE as usize,
            );
            let cursor = open_cursor(&query.text);
            let mut previous: pg_sys::HeapTuple = std::ptr::null_mut();
            let mut previous_tuples: *mut pg_sys::SPITupleTable = std::ptr::null_mut();
            loop {
                pg_sys::SPI_cursor_fetch(cursor, true, FETCH_ROWS);
                let (found, tuples) = (pg_sys::SPI_processed, pg_sys::SPI_tuptable);
                if found == 0 || tuples.is_null() {
                    break;
                }
                let descriptor = (*tuples).tupdesc;
                for index in 0..found as usize {
                    let tuple = *(*tuples).vals.add(index);
                    let before = pg_sys::MemoryContextSwitchTo(scratch);
                    if !previous.is_null()
                        && !(query.order).is_behind(
                            previous,
                            tuple,
                            descriptor,
                            &query.order_columns,
                        )
                    {
                        out_of_order(&table.name).raise();
                    }
                    previous = tuple;
                    capture(
                        trigger,
                        query.plan_id,
                        &Captured::Found { tuple, descriptor },
                    );
                    if index + 1 == found as usize {
                        place = Some(place_of(query, &relation, trigger, tuple, descriptor));
                    }
                    pg_sys::MemoryContextSwitchTo(before);
                    pg_sys::MemoryContextReset(scratch);
                }
                rows += found as i64;
                // The last row of these is compared with the first of the next ones.
                if !previous_tuples.is_null() {
                    pg_sys::SPI_freetuptable(previous_tuples);
                }
                previous_tuples = tuples;
                pgrx::check_for_interrupts!();
            }
            pg_sys::SPI_cursor_close(cursor);
            pg_sys::MemoryContextDelete(scratch);
        }
    });
    (rows, place)
}

/// Nothing goes on behind a NULL.
fn null_in_key(column: &change::wal::relation::Column<'_>) -> ! {
    Trouble::new(
        Code::NoSnapshotKey,
        format!("key column \"{}\" is null in a row", column.name),
        "Make the columns of the key NOT NULL; then call cdc_snapshot_resume.",
    )
    .raise()
}

/// What the key of a row may have, as JSON: each chunk names two, in every partition.
const MAX_KEY_BYTES: usize = 400 * 1024;

fn long_key(column: &change::wal::relation::Column<'_>) -> ! {
    Trouble::new(
        Code::NoSnapshotKey,
        format!("key column \"{}\" is too long in a row", column.name),
        "Make a shorter key the primary key; then call cdc_snapshot_resume.",
    )
    .detail(format!(
        "A key may have {MAX_KEY_BYTES} bytes as JSON, for each chunk of a snapshot names two."
    ))
    .raise()
}

/// The key of a row: as text for the next statement, and as events have it.
unsafe fn place_of(
    query: &Query,
    relation: &Relation<'_>,
    trigger: &pg_sys::TriggerData,
    tuple: pg_sys::HeapTuple,
    descriptor: pg_sys::TupleDesc,
) -> Place {
    let mut place = Place::default();
    let mut key = Vec::new();
    with_capture(|capture| {
        // SAFETY: the tuple has the selected columns, in the plan's order.
        unsafe {
            let plan = capture.plans.plan(trigger);
            for number in &query.order_columns {
                let text = pg_sys::SPI_getvalue(tuple, descriptor, *number);
                if text.is_null() {
                    null_in_key(&relation.columns[*number as usize - 1]);
                }
                place.values.push(utf8(CStr::from_ptr(text).to_bytes()));
            }
            for column in &query.key {
                let number = *column as i32 + 1;
                let mut is_null = false;
                let datum = pg_sys::SPI_getbinval(tuple, descriptor, number, &mut is_null);
                if is_null {
                    null_in_key(&relation.columns[*column]);
                }
                let mut encoded = Vec::new();
                put_datum(&mut encoded, &plan.columns[*column].encode, datum);
                let column = &relation.columns[*column];
                let mut cursor = change::wire::Cursor::new(&encoded);
                key.push(if key.is_empty() { b'{' } else { b',' });
                put_string(&mut key, column.name);
                key.push(b':');
                let done = change::value::take_value(&mut cursor, &column.kind)
                    .and_then(|value| put_bounded(&mut key, &column.kind, value, MAX_KEY_BYTES));
                match done {
                    Ok(_) if key.len() <= MAX_KEY_BYTES => {}
                    Ok(_) | Err(WireError::TooLong) => long_key(column),
                    Err(error) => pgrx::error!("pg_cdc cannot read a key of its own: {error}"),
                }
            }
        }
    });
    key.push(b'}');
    place.key = String::from_utf8_lossy(&key).into_owned();
    place
}
