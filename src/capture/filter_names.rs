//! The text of a filter, written anew after columns or the table itself got other names; and what is said where a filter
//! fits its table no longer.

use std::ffi::CStr;
use std::panic::AssertUnwindSafe;

use pgrx::PgTryBuilder;
use pgrx::pg_sys;
use pgrx::pg_sys::panic::CaughtError;
use pgrx::prelude::*;

use super::row_filter::{only_expression, refuse_text};
use super::{server_text, utf8};
use crate::ffi;
use crate::report::Report;

/// Runs `body`, in which the filter of `table` is read: what PostgreSQL refuses there comes with our code and a remedy.
pub fn coded<R>(table: &str, body: impl FnOnce() -> R) -> R {
    // Caught only to be raised again: the statement ends in any case.
    PgTryBuilder::new(AssertUnwindSafe(body))
        .catch_others(|error| match error {
            CaughtError::PostgresError(report) | CaughtError::ErrorReport(report) => {
                match report.hint() {
                    // It was allowed once: the table is another one since.
                    Some(hint) if hint.ends_with("[CDC0111]") => {
                        let why = report.detail().unwrap_or_default();
                        unfit(table, why.trim_end_matches('.')).raise()
                    }
                    Some(hint) if hint.ends_with(']') => CaughtError::ErrorReport(report).rethrow(),
                    _ => unfit(table, report.message()).raise(),
                }
            }
            panic => panic.rethrow(),
        })
        .execute()
}

/// CDC0120.
fn unfit(table: &str, message: &str) -> Report {
    Report::new(
        "CDC0120",
        PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
        format!("filter of tracked table \"{table}\" does not fit its columns: {message}"),
        format!(
            "Call cdc_track('{table}', filter => …) with one that fits before and after, or '' for none."
        ),
    )
}

/// The names that a filter was written with.
pub struct FormerNames<'a> {
    /// Of the table, if it has another one now.
    pub table: Option<&'a str>,
    /// Of columns that have another one now, by their numbers.
    pub columns: &'a [(i16, String, String)],
}

/// The filter's text with the names of today, if it must be another one. Raises PostgreSQL's own error where the text is
/// no condition even with the former names.
///
/// # Safety
/// In a transaction; the relation is open and locked.
pub unsafe fn follow(
    relation: pg_sys::Relation,
    filter: &str,
    former: &FormerNames<'_>,
) -> Option<String> {
    // SAFETY: as the caller promises.
    unsafe {
        ffi::with_pinned_search_path(|| {
            let expression = parsed(relation, filter, former);
            let mut numbers = std::ptr::null_mut();
            pg_sys::pull_varattnos(expression, 1, &mut numbers);
            let reads = |number: i16| {
                let place = i32::from(number) - pg_sys::FirstLowInvalidHeapAttributeNumber;
                pg_sys::bms_is_member(place, numbers)
            };
            let names_table = former.table.is_some_and(|table| filter.contains(table));
            let changes = names_table || former.columns.iter().any(|(number, ..)| reads(*number));
            changes.then(|| {
                let name = pg_sys::get_rel_name((*relation).rd_id);
                let context = pg_sys::deparse_context_for(name, (*relation).rd_id);
                let text = pg_sys::deparse_expression(expression, context, false, false);
                utf8(CStr::from_ptr(text).to_bytes())
            })
        })
    }
}

/// The expression tree, names being the former ones.
unsafe fn parsed(
    relation: pg_sys::Relation,
    filter: &str,
    former: &FormerNames<'_>,
) -> *mut pg_sys::Node {
    let statement = server_text(&format!("SELECT ({filter}\n)"));
    // SAFETY: the parser's own calls, as in row_filter; names are put into lists that the range table entry has for itself.
    unsafe {
        let raw = only_expression(pg_sys::raw_parser(
            statement.as_ptr(),
            pg_sys::RawParseMode::RAW_PARSE_DEFAULT,
        ));
        refuse_text(raw, relation, former.columns);
        let state = pg_sys::make_parsestate(std::ptr::null_mut());
        (*state).p_sourcetext = statement.as_ptr();
        let item = pg_sys::addRangeTableEntryForRelation(
            state,
            relation,
            pg_sys::AccessShareLock as i32,
            std::ptr::null_mut(),
            false,
            false,
        );
        let names = (*item).p_names;
        if let Some(table) = former.table {
            (*names).aliasname = pg_sys::pstrdup(server_text(table).as_ptr());
        }
        let put = |number: i16, name: &str| {
            let place = (*(*names).colnames).elements.add(number as usize - 1);
            let name = pg_sys::pstrdup(server_text(name).as_ptr());
            (*place).ptr_value = pg_sys::makeString(name).cast();
        };
        for (number, old, _) in former.columns {
            put(*number, old);
        }
        pg_sys::addNSItemToQuery(state, item, false, true, true);
        let expression = pg_sys::transformExpr(
            state,
            raw,
            pg_sys::ParseExprKind::EXPR_KIND_CHECK_CONSTRAINT,
        );
        let expression = pg_sys::coerce_to_boolean(state, expression, c"filter".as_ptr());
        pg_sys::assign_expr_collations(state, expression);
        pg_sys::free_parsestate(state);
        expression
    }
}
