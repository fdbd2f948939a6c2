//! A filter's text: the names that it was written with, and what PostgreSQL makes of its tree.

use std::ffi::CStr;

use pgrx::pg_sys;

use crate::capture::datum::pinned_style::PinnedStyle;
use crate::ffi;
use crate::text::utf8;

/// The names that a filter was written with.
pub(crate) struct FormerNames<'a> {
    /// Of the table, if it has another one now.
    pub table: Option<&'a str>,
    /// Of columns that have another one now, by their numbers.
    pub columns: &'a [(i16, String, String)],
}

impl FormerNames<'_> {
    /// Everything is called as it was.
    pub(crate) const NONE: FormerNames<'static> = FormerNames {
        table: None,
        columns: &[],
    };
}

/// What PostgreSQL's text of a constant has whose type's input depends on settings, or on the moment.
const DATES: [&str; 4] = ["::date", "::time", "::ts", "::interval"];

/// The text of a filter with such constants, as it is read whatever is set; none of one that has none.
///
/// # Safety
/// In a transaction; the relation is open and locked, and the expression is one on the relation's columns.
pub(crate) unsafe fn lasting(
    relation: pg_sys::Relation,
    expression: *mut pg_sys::Node,
) -> Option<String> {
    // SAFETY: as the caller promises.
    let text = unsafe {
        let _pinned = PinnedStyle::set();
        ffi::with_pinned_search_path(|| deparsed(relation, expression))
    };
    DATES.iter().any(|kind| text.contains(kind)).then_some(text)
}

/// The text of a filter's tree.
///
/// # Safety
/// As for [`lasting`].
pub(crate) unsafe fn deparsed(relation: pg_sys::Relation, expression: *mut pg_sys::Node) -> String {
    // SAFETY: the expression is one on columns of the open relation; the text is copied.
    unsafe {
        let name = pg_sys::get_rel_name((*relation).rd_id);
        let context = pg_sys::deparse_context_for(name, (*relation).rd_id);
        let text = pg_sys::deparse_expression(expression, context, false, false);
        utf8(CStr::from_ptr(text).to_bytes())
    }
}
