//! Settings that are texts.

use std::ffi::{CStr, CString, c_char};

use pgrx::guc::{GucContext, GucFlags, GucRegistry, GucSetting};
use pgrx::pg_sys;

pub(crate) type Text = GucSetting<Option<CString>>;

/// A string setting, "" for none.
pub(crate) fn text(setting: &'static Text) -> String {
    setting
        .get()
        .map(|value| value.to_string_lossy().into_owned())
        .unwrap_or_default()
}

/// The bytes of a string setting, where they lie; valid until it is assigned again.
pub(crate) fn raw(setting: &'static Text) -> &'static [u8] {
    let value = setting.as_ptr();
    // SAFETY: the address of this backend's value of the setting, null or a zero-ended string.
    unsafe {
        if value.is_null() || (*value).is_null() {
            &[]
        } else {
            CStr::from_ptr(*value).to_bytes()
        }
    }
}

/// Defines a text, with the hooks that check and take a new value.
#[expect(
    clippy::too_many_arguments,
    reason = "what PostgreSQL is told of a setting"
)]
pub(super) fn define_text(
    name: &'static CStr,
    short: &'static CStr,
    long: &'static CStr,
    setting: &'static Text,
    context: GucContext,
    flags: GucFlags,
    check: pg_sys::GucStringCheckHook,
    assign: pg_sys::GucStringAssignHook,
) {
    // SAFETY: each hook has the signature that PostgreSQL calls for a string setting.
    unsafe {
        GucRegistry::define_string_guc_with_hooks(
            name, short, long, setting, context, flags, check, assign, None,
        );
    }
}

/// Gives the new value to `allowed`; a refusal becomes the error's DETAIL.
///
/// # Safety
/// PostgreSQL has passed `value` to a check hook.
pub(super) unsafe fn check(
    value: *mut *mut c_char,
    allowed: impl FnOnce(&str) -> Result<(), String>,
) -> bool {
    // SAFETY: PostgreSQL passes the address of a zero-ended string or of a null pointer.
    let text = unsafe {
        if (*value).is_null() {
            return true;
        }
        CStr::from_ptr(*value).to_string_lossy().into_owned()
    };
    match allowed(&text) {
        Ok(()) => true,
        Err(reason) => {
            // SAFETY: GUC_check_errdetail is a macro over this variable (utils/guc.h); the copy lives as long as the
            // message needs it. Zero bytes cannot be in it: `text` came from a zero-ended string.
            unsafe {
                let reason = CString::new(reason).unwrap_or_default();
                pg_sys::GUC_check_errdetail_string = pg_sys::pstrdup(reason.as_ptr());
            }
            false
        }
    }
}

/// A check hook of a string setting: the closure says why a text is refused.
macro_rules! check_hook {
    ($name:ident, $allowed:expr) => {
        #[pgrx::pg_guard]
        unsafe extern "C-unwind" fn $name(
            value: *mut *mut std::ffi::c_char,
            _extra: *mut *mut std::ffi::c_void,
            _source: pgrx::pg_sys::GucSource::Type,
        ) -> bool {
            // SAFETY: called by PostgreSQL with a value to check.
            unsafe { $crate::settings::text::check(value, $allowed) }
        }
    };
}

pub(super) use check_hook;
