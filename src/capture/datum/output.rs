//! Output functions: the text of a value, the same whatever the session has set.

use std::ffi::CStr;

use change::value::kind::MOST_LEVELS;
use pgrx::pg_sys;

use super::pinned_style::PinnedStyle;
use super::varlena::{bytes_at, same_varlena};
use crate::ffi;
use crate::text::utf8;

/// A type's output function; length and passing are the type's (pg_type.typlen, typbyval).
pub(crate) struct Output {
    function: Box<pg_sys::FmgrInfo>,
    depends_on: DependsOn,
    length: i16,
    by_value: bool,
}

/// Settings that change a type's text, and cost too much to be pinned for types that they do not change.
#[derive(Clone, Copy, Default)]
struct DependsOn {
    /// The text names objects of the database.
    search_path: bool,
    /// It has money in it.
    lc_monetary: bool,
}

impl Output {
    /// The output function of a type.
    ///
    /// # Safety
    /// In a transaction; the type exists.
    pub(super) unsafe fn of(type_id: pg_sys::Oid) -> Output {
        // SAFETY: catalog look-ups inside the running transaction.
        unsafe {
            let (mut output, mut is_varlena) = (pg_sys::InvalidOid, false);
            pg_sys::getTypeOutputInfo(type_id, &mut output, &mut is_varlena);
            let (mut length, mut by_value) = (0, false);
            pg_sys::get_typlenbyval(type_id, &mut length, &mut by_value);
            let function = function(output);
            Output {
                depends_on: depends_on(type_id, &function, MOST_LEVELS),
                function,
                length,
                by_value,
            }
        }
    }

    /// Whether two values have the same bytes.
    ///
    /// # Safety
    /// Both are non-NULL datums of the type.
    pub(super) unsafe fn is_same(&self, old: pg_sys::Datum, new: pg_sys::Datum) -> bool {
        // SAFETY: as the caller promises.
        unsafe {
            match self.length {
                _ if self.by_value => old == new,
                -1 => same_varlena(old, new),
                length @ 1.. => bytes_at(old, length as usize) == bytes_at(new, length as usize),
                _ => false,
            }
        }
    }

    /// Gives `put` the text of a value, in UTF-8.
    ///
    /// # Safety
    /// `datum` is a non-NULL value of the type, in memory that is as short-lived as the row.
    pub(super) unsafe fn with_text(&self, datum: pg_sys::Datum, put: impl FnOnce(&[u8])) {
        // SAFETY: the function is the output function of the datum's type; what it returns lies in per-tuple memory.
        unsafe {
            let _pinned = PinnedStyle::set();
            let call = || pg_sys::OutputFunctionCall(as_mut(&self.function), datum);
            let text = match self.depends_on {
                DependsOn {
                    search_path: false,
                    lc_monetary: false,
                } => call(),
                DependsOn {
                    search_path: false,
                    lc_monetary: true,
                } => with_money_of_the_server(call),
                DependsOn {
                    search_path: true, ..
                } => ffi::with_pinned_search_path(|| with_money_of_the_server(call)),
            };
            let bytes = CStr::from_ptr(text).to_bytes();
            if pg_sys::GetDatabaseEncoding() == pg_sys::pg_enc::PG_UTF8 as i32 {
                put(bytes);
            } else {
                put(utf8(bytes).as_bytes());
            }
        }
    }
}

/// The conversion of money to numeric: its text depends on a setting.
pub(crate) struct MoneyToNumeric(Box<pg_sys::FmgrInfo>);

impl MoneyToNumeric {
    pub(super) fn new() -> MoneyToNumeric {
        MoneyToNumeric(function(pg_sys::Oid::from(pg_sys::F_NUMERIC_MONEY)))
    }

    /// # Safety
    /// `money` is a non-NULL value of that type.
    pub(super) unsafe fn numeric(&self, money: pg_sys::Datum) -> pg_sys::Datum {
        // SAFETY: as the caller promises; the function takes one value, and is strict.
        unsafe {
            with_money_of_the_server(|| {
                pg_sys::FunctionCall1Coll(as_mut(&self.0), pg_sys::InvalidOid, money)
            })
        }
    }
}

/// Looks up a function, once per plan.
fn function(oid: pg_sys::Oid) -> Box<pg_sys::FmgrInfo> {
    let mut info = Box::new(pg_sys::FmgrInfo::default());
    // SAFETY: a catalog look-up; the function's own cache lives in TopMemoryContext, as long as this backend.
    unsafe { pg_sys::fmgr_info_cxt(oid, &mut *info, pg_sys::TopMemoryContext) };
    info
}

/// PostgreSQL itself writes through a function's information, on this thread.
fn as_mut(info: &pg_sys::FmgrInfo) -> *mut pg_sys::FmgrInfo {
    std::ptr::from_ref(info).cast_mut()
}

/// What a type's text depends on, itself or by what lies in it.
unsafe fn depends_on(type_id: pg_sys::Oid, output: &pg_sys::FmgrInfo, levels: u32) -> DependsOn {
    let everything = DependsOn {
        search_path: true,
        lc_monetary: true,
    };
    // SAFETY: catalog look-ups inside the running transaction.
    unsafe {
        let Some(levels) = levels.checked_sub(1) else {
            return everything;
        };
        let within = |inner: pg_sys::Oid| {
            let base = pg_sys::getBaseType(inner);
            let (mut output, mut is_varlena) = (pg_sys::InvalidOid, false);
            pg_sys::getTypeOutputInfo(base, &mut output, &mut is_varlena);
            depends_on(base, &function(output), levels)
        };
        match output.fn_oid.to_u32() {
            pg_sys::F_ARRAY_OUT => within(pg_sys::get_element_type(type_id)),
            pg_sys::F_RANGE_OUT => within(pg_sys::get_range_subtype(type_id)),
            pg_sys::F_MULTIRANGE_OUT => within(pg_sys::get_multirange_range(type_id)),
            pg_sys::F_RECORD_OUT => everything,
            // A type of somebody's own may have the same C function under another oid.
            _ => DependsOn {
                search_path: NAMING.iter().any(|naming| is_same(*naming, output)),
                lc_monetary: is_same(pg_sys::F_CASH_OUT, output),
            },
        }
    }
}

fn is_same(builtin: u32, other: &pg_sys::FmgrInfo) -> bool {
    let address = |info: &pg_sys::FmgrInfo| info.fn_addr.map(|address| address as usize);
    address(&function(pg_sys::Oid::from(builtin))) == address(other)
}

/// Runs `body` with money as the server's own configuration has it, whatever the session has set: how many of its digits
/// are behind the point depends on that.
unsafe fn with_money_of_the_server<R>(body: impl FnOnce() -> R) -> R {
    const NAME: &CStr = c"lc_monetary";
    // SAFETY: inside a transaction, which restores the setting if `body` ends in an ERROR; both texts are zero-ended, and
    // PostgreSQL copies the one that it is given.
    unsafe {
        let configured = pg_sys::GetConfigOptionResetString(NAME.as_ptr());
        if configured.is_null()
            || ffi::locale_monetary.is_null()
            || CStr::from_ptr(configured) == CStr::from_ptr(ffi::locale_monetary)
        {
            return body();
        }
        ffi::with_setting(NAME, configured, body)
    }
}

/// Output functions that name objects: qualified only where search_path does not find them.
const NAMING: [u32; 11] = [
    pg_sys::F_REGCLASSOUT,
    pg_sys::F_REGCOLLATIONOUT,
    pg_sys::F_REGCONFIGOUT,
    pg_sys::F_REGDICTIONARYOUT,
    pg_sys::F_REGNAMESPACEOUT,
    pg_sys::F_REGOPEROUT,
    pg_sys::F_REGOPERATOROUT,
    pg_sys::F_REGPROCOUT,
    pg_sys::F_REGPROCEDUREOUT,
    pg_sys::F_REGROLEOUT,
    pg_sys::F_REGTYPEOUT,
];
