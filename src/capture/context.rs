//! Who and why: read at the first row of a transaction, and again when something of it changed.

use std::cell::Cell;
use std::ffi::{CStr, CString, c_char};

use change::wal::context::{Context, put_context, set_transaction};
use pgrx::pg_sys;
use serde_json::{Map, Value};

use crate::settings;
use crate::text::utf8;

/// What one setting of `cdc.context_settings` may have, as JSON, in bytes.
const MAX_SETTING_BYTES: usize = 8 * 1024;
/// And all of the context: it is in every event.
const MAX_CONTEXT_BYTES: usize = 16 * 1024;

/// What the newest context was made of, and where it stands in the message.
#[derive(Default)]
pub(crate) struct Who {
    place: Option<u32>,
    generation: u64,
    user: pg_sys::Oid,
    session_user: pg_sys::Oid,
    origin: u16,
    application_name: Vec<u8>,
    statement_us: i64,
    blob: Vec<u8>,
    /// Generation of the names in the blob; 0 before the first one.
    names: u64,
}

thread_local! {
    /// Rises when a role or origin may have another name. The callback is registered with the first context.
    static NAMES: Cell<u64> = const { Cell::new(0) };
}

fn names_generation() -> u64 {
    if NAMES.get() == 0 {
        NAMES.set(1);
        for cache in [
            pg_sys::SysCacheIdentifier::AUTHOID,
            pg_sys::SysCacheIdentifier::REPLORIGIDENT,
        ] {
            // SAFETY: the callback lives as long as the library, which is never unloaded.
            unsafe {
                pg_sys::CacheRegisterSyscacheCallback(
                    cache as i32,
                    Some(name_changed),
                    pg_sys::Datum::from(0),
                );
            }
        }
    }
    NAMES.get()
}

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn name_changed(_arg: pg_sys::Datum, _cache: i32, _hash: u32) {
    NAMES.set(NAMES.get() + 1);
}

impl Who {
    /// Place of the context that is right for the row being captured, and the start of its statement. `known`
    /// contexts are in the message; `add` puts another one there.
    #[inline]
    pub(crate) fn current(&mut self, known: u32, add: impl FnOnce(&[u8]) -> u32) -> (u32, i64) {
        // SAFETY: plain reads of this backend's own variables.
        let (user, session_user, statement_us, origin, application_name) = unsafe {
            (
                pg_sys::GetUserId(),
                pg_sys::GetSessionUserId(),
                pg_sys::GetCurrentStatementStartTimestamp(),
                pg_sys::replorigin_session_origin,
                c_bytes(pg_sys::application_name),
            )
        };
        let same = self.generation == settings::context_generation()
            && self.user == user
            && self.session_user == session_user
            && self.origin == origin
            && self.application_name == application_name
            // Settings of others have no hook of ours: they are read once per statement.
            && (self.statement_us == statement_us || !has_further_settings());
        let place = match self.place.filter(|place| same && *place < known) {
            Some(place) => place,
            None => {
                self.generation = settings::context_generation();
                self.user = user;
                self.session_user = session_user;
                self.origin = origin;
                self.application_name.clear();
                self.application_name.extend_from_slice(application_name);
                if same && self.names == names_generation() && !has_further_settings() {
                    // A new transaction of the same session: only its time differs.
                    // SAFETY: a plain read of this backend's own variable.
                    let transaction_us = unsafe { pg_sys::GetCurrentTransactionStartTimestamp() };
                    set_transaction(&mut self.blob, transaction_us);
                } else {
                    self.names = names_generation();
                    self.read();
                }
                add(&self.blob)
            }
        };
        self.place = Some(place);
        self.statement_us = statement_us;
        (place, statement_us)
    }

    /// Forgets where the context stands; the buffers stay.
    pub(crate) fn forget(&mut self) {
        self.place = None;
    }

    #[cold]
    fn read(&mut self) {
        let setting = |value: String| (!value.is_empty()).then_some(value);
        let session_user = user_name(self.session_user);
        let current_user = user_name(self.user);
        let application_name = setting(utf8(&self.application_name));
        let client_addr = client_addr();
        let actor = setting(utf8(settings::raw(&settings::ACTOR)));
        let reason = setting(utf8(settings::raw(&settings::REASON)));
        let request_id = setting(utf8(settings::raw(&settings::REQUEST_ID)));
        let context = further_context();
        let origin = origin_name(self.origin);
        // SAFETY: plain reads of this backend's own variables.
        let (transaction_us, pid) = unsafe {
            (
                pg_sys::GetCurrentTransactionStartTimestamp(),
                pg_sys::MyProcPid,
            )
        };
        self.blob.clear();
        put_context(
            &mut self.blob,
            &Context {
                transaction_us,
                pid,
                session_user: session_user.as_deref(),
                current_user: current_user.as_deref(),
                application_name: application_name.as_deref(),
                client_addr: client_addr.as_deref(),
                actor: actor.as_deref(),
                reason: reason.as_deref(),
                request_id: request_id.as_deref(),
                context: context.as_deref(),
                origin: origin.as_deref(),
            },
        );
    }
}

unsafe fn c_bytes<'a>(text: *const c_char) -> &'a [u8] {
    if text.is_null() {
        &[]
    } else {
        // SAFETY: the caller passes null or a zero-ended string that outlives the use.
        unsafe { CStr::from_ptr(text) }.to_bytes()
    }
}

fn user_name(oid: pg_sys::Oid) -> Option<String> {
    // SAFETY: a catalog look-up inside the running transaction; a missing role gives null.
    unsafe {
        let name = pg_sys::GetUserNameFromId(oid, true);
        (!name.is_null()).then(|| utf8(CStr::from_ptr(name).to_bytes()))
    }
}

/// Address of the client; none for a Unix socket and for background workers.
fn client_addr() -> Option<String> {
    use std::net::{Ipv4Addr, Ipv6Addr};
    // SAFETY: this backend's own status entry; the family says which address follows.
    unsafe {
        if pg_sys::MyBEEntry.is_null() {
            return None;
        }
        let storage = &raw const (*pg_sys::MyBEEntry).st_clientaddr.addr;
        match i32::from((*storage.cast::<libc::sockaddr>()).sa_family) {
            libc::AF_INET => {
                let address = &*storage.cast::<libc::sockaddr_in>();
                Some(Ipv4Addr::from(u32::from_be(address.sin_addr.s_addr)).to_string())
            }
            libc::AF_INET6 => {
                let address = &*storage.cast::<libc::sockaddr_in6>();
                Some(Ipv6Addr::from(address.sin6_addr.s6_addr).to_string())
            }
            _ => None,
        }
    }
}

fn origin_name(origin: u16) -> Option<String> {
    if origin == pg_sys::InvalidRepOriginId as u16 {
        return None;
    }
    let mut name: *mut c_char = std::ptr::null_mut();
    // SAFETY: a catalog look-up inside the running transaction; a missing origin is no error.
    unsafe {
        let found = pg_sys::replorigin_by_oid(origin, true, &mut name);
        (found && !name.is_null()).then(|| utf8(CStr::from_ptr(name).to_bytes()))
    }
}

fn has_further_settings() -> bool {
    let list = settings::CONTEXT_SETTINGS.as_ptr();
    // SAFETY: the address of this backend's value of the setting, null or a zero-ended string.
    unsafe { !list.is_null() && !(*list).is_null() && **list != 0 }
}

/// `cdc.context_settings` and what `cdc_context` was given, as one JSON object.
fn further_context() -> Option<String> {
    let given = settings::text(&settings::CONTEXT);
    if !has_further_settings() {
        return (!given.is_empty()).then(|| bounded(given));
    }
    let mut object = Map::new();
    for name in settings::text(&settings::CONTEXT_SETTINGS)
        .split(',')
        .map(str::trim)
    {
        let Ok(c_name) = CString::new(name) else {
            continue;
        };
        // SAFETY: a setting that does not exist gives null; the value is copied.
        let value = unsafe {
            let value = pg_sys::GetConfigOption(c_name.as_ptr(), true, false);
            (!value.is_null()).then(|| utf8(CStr::from_ptr(value).to_bytes()))
        };
        // A setting that was SET LOCAL once reads '' from then on: the same as not set.
        if let Some(value) = value.filter(|value| !value.is_empty()) {
            let value = match json_bytes(&value) {
                bytes if bytes > MAX_SETTING_BYTES => left_out(bytes),
                _ => value.into(),
            };
            object.insert(name.to_owned(), value);
        }
    }
    // The setting's check lets only objects pass.
    let given = if given.len() > MAX_CONTEXT_BYTES {
        bounded(given)
    } else {
        given
    };
    object.extend(serde_json::from_str::<Map<_, _>>(&given).unwrap_or_default());
    (!object.is_empty()).then(|| bounded(Value::Object(object).to_string()))
}

/// The context, or what stands for one that is too large. A statement is not to fail for what it says of itself.
fn bounded(context: String) -> String {
    if context.len() <= MAX_CONTEXT_BYTES {
        return context;
    }
    let mark = Map::from_iter([("__cdc".to_owned(), left_out(context.len()))]);
    Value::Object(mark).to_string()
}

/// What stands in the context instead of something that is too large for it.
fn left_out(bytes: usize) -> Value {
    serde_json::json!({ "left_out_bytes": bytes })
}

/// What a text takes as JSON.
fn json_bytes(text: &str) -> usize {
    let control = text.bytes().filter(|byte| *byte < 0x20).count();
    text.len() + 5 * control
}
