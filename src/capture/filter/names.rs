//! The text of a filter, written anew after columns or the table itself got other names; and what is said where a filter
//! fits its table no longer.

use std::ffi::{CStr, CString};
use std::panic::AssertUnwindSafe;

use change::code::Code;
use change::trouble::Trouble;
use pgrx::PgTryBuilder;
use pgrx::pg_sys;
use pgrx::pg_sys::panic::CaughtError;

use super::row_filter::expression;
use super::text::{FormerNames, deparsed};
use crate::capture::datum::pinned_style::PinnedStyle;
use crate::report::{Raise, code_of};
use crate::tracked::rights::as_superuser;
use crate::tracked::table::Table;

/// Runs `body`, in which the filter of `table` is read: what PostgreSQL refuses there comes with our code and a remedy.
pub(crate) fn coded<R>(table: &Table, body: impl FnOnce() -> R) -> R {
    // Caught only to be raised again: the statement ends in any case.
    PgTryBuilder::new(AssertUnwindSafe(body))
        .catch_others(|error| match error {
            CaughtError::PostgresError(report) | CaughtError::ErrorReport(report) => {
                match code_of(&report) {
                    // It was allowed once: the table is another one since.
                    Some(Code::FilterNotAllowed) => {
                        let why = report.detail().unwrap_or_default();
                        unfit(table, why.trim_end_matches('.')).raise()
                    }
                    Some(_) => CaughtError::ErrorReport(report).rethrow(),
                    None => unfit(table, report.message()).raise(),
                }
            }
            panic => panic.rethrow(),
        })
        .execute()
}

/// CDC0120.
fn unfit(table: &Table, message: &str) -> Trouble {
    Trouble::new(
        Code::FilterUnfit,
        format!(
            "filter of tracked table \"{}\" does not fit its columns: {message}",
            table.name
        ),
        format!(
            "Call cdc_track({}, filter => …) with one that fits before and after, or '' for none.",
            table.argument()
        ),
    )
}

/// The filter's text with the names of today, if it must be another one. Raises PostgreSQL's own error where the text is
/// no condition even with the former names.
///
/// # Safety
/// In a transaction; the relation is open and locked.
pub(crate) unsafe fn follow(
    relation: pg_sys::Relation,
    filter: &str,
    former: &FormerNames<'_>,
) -> Option<String> {
    // SAFETY: as the caller promises.
    unsafe {
        let _pinned = PinnedStyle::set();
        as_superuser(|| {
            let expression = expression(relation, filter, former);
            let mut numbers = std::ptr::null_mut();
            pg_sys::pull_varattnos(expression, 1, &mut numbers);
            let reads = |number: i16| {
                let place = i32::from(number) - pg_sys::FirstLowInvalidHeapAttributeNumber;
                pg_sys::bms_is_member(place, numbers)
            };
            let names_table = former.table.is_some_and(|table| filter.contains(table));
            let changes = names_table || former.columns.iter().any(|(number, ..)| reads(*number));
            changes.then(|| deparsed(relation, expression))
        })
    }
}

/// The filter as a tree, in PostgreSQL's own form, and as text.
///
/// # Safety
/// As for [`follow`].
pub(crate) unsafe fn tree(relation: pg_sys::Relation, filter: &str) -> (CString, String) {
    // SAFETY: as the caller promises; the text is copied.
    unsafe {
        let _pinned = PinnedStyle::set();
        as_superuser(|| {
            let expression = expression(relation, filter, &FormerNames::NONE);
            let tree = CStr::from_ptr(pg_sys::nodeToString(expression.cast()));
            (tree.to_owned(), deparsed(relation, expression))
        })
    }
}

/// The text of a filter with the names of today.
///
/// # Safety
/// As for [`follow`]; the tree is one that [`tree`] made of the relation's filter.
pub(crate) unsafe fn text(relation: pg_sys::Relation, tree: &CStr) -> String {
    // SAFETY: as the caller promises.
    unsafe {
        let _pinned = PinnedStyle::set();
        as_superuser(|| {
            let expression = pg_sys::stringToNode(tree.as_ptr());
            deparsed(relation, expression.cast())
        })
    }
}
