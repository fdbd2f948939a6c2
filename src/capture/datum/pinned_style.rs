//! Settings that text depends on.

use std::ffi::c_int;

use pgrx::pg_sys;

use crate::ffi;

/// Pins the settings that output functions depend on, so that text means the same whoever writes; restores them on
/// every way out, errors included.
pub(crate) struct PinnedStyle {
    date_style: c_int,
    date_order: c_int,
    interval_style: c_int,
    extra_float_digits: c_int,
    bytea_output: c_int,
    quote_all_identifiers: bool,
    time_zone: *mut pg_sys::pg_tz,
}

thread_local! {
    /// The time zone, looked up once: PostgreSQL keeps it as long as the process lives.
    static UTC: std::cell::LazyCell<*mut pg_sys::pg_tz> = std::cell::LazyCell::new(|| {
        // SAFETY: on the backend's only thread; null where there is no such zone.
        unsafe { pg_sys::pg_tzset(c"UTC".as_ptr()) }
    });
}

impl PinnedStyle {
    /// # Safety
    /// On the main thread of a backend, inside a transaction.
    pub(crate) unsafe fn set() -> PinnedStyle {
        // SAFETY: these variables belong to this backend's only thread; the zone is looked up before anything is set.
        unsafe {
            let utc = UTC.with(|utc| **utc);
            let before = PinnedStyle {
                date_style: pg_sys::DateStyle,
                date_order: pg_sys::DateOrder,
                interval_style: pg_sys::IntervalStyle,
                extra_float_digits: pg_sys::extra_float_digits,
                bytea_output: ffi::bytea_output,
                quote_all_identifiers: pg_sys::quote_all_identifiers,
                time_zone: pg_sys::session_timezone,
            };
            pg_sys::DateStyle = pg_sys::USE_ISO_DATES as c_int;
            pg_sys::DateOrder = pg_sys::DATEORDER_YMD as c_int;
            pg_sys::IntervalStyle = pg_sys::INTSTYLE_POSTGRES as c_int;
            pg_sys::extra_float_digits = 1;
            ffi::bytea_output = 1;
            pg_sys::quote_all_identifiers = false;
            if !utc.is_null() {
                pg_sys::session_timezone = utc;
            }
            before
        }
    }
}

impl Drop for PinnedStyle {
    fn drop(&mut self) {
        // SAFETY: as in `set`.
        unsafe {
            pg_sys::DateStyle = self.date_style;
            pg_sys::DateOrder = self.date_order;
            pg_sys::IntervalStyle = self.interval_style;
            pg_sys::extra_float_digits = self.extra_float_digits;
            ffi::bytea_output = self.bytea_output;
            pg_sys::quote_all_identifiers = self.quote_all_identifiers;
            pg_sys::session_timezone = self.time_zone;
        }
    }
}
