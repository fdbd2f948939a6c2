//! The seal of a tracked table's row trigger. Whoever owns a table may make a trigger that calls our function with
//! whatever arguments; the last one of a trigger that `cdc_track` made is a MAC over what it was made for. So only
//! `cdc_track`, which looks at rights, can say what is captured and where it goes.
//!
//! It covers the database, the table and the trigger itself, so that arguments that once held count nowhere else and never
//! again: not on another table, not in a copy of the database, not in a trigger that was made anew.

use std::cell::OnceCell;

use change::mac_key::MacKey;
use pgrx::pg_sys;

use crate::cluster_secret::cluster_secret;

/// How the last argument begins.
const NAME: &str = "seal=";

thread_local! {
    static KEY: OnceCell<MacKey> = const { OnceCell::new() };
}

/// The argument that seals `arguments` for this trigger of this table.
pub(crate) fn argument(table: pg_sys::Oid, trigger: pg_sys::Oid, arguments: &[String]) -> String {
    let mut text = NAME.to_owned();
    for byte in mac(table, trigger, arguments) {
        text.push_str(&format!("{byte:02x}"));
    }
    text
}

/// Whether the last of `arguments` seals the others, for this trigger of this table, here.
pub(crate) fn holds(table: pg_sys::Oid, trigger: pg_sys::Oid, arguments: &[String]) -> bool {
    let Some((seal, sealed)) = arguments.split_last() else {
        return false;
    };
    let right = argument(table, trigger, sealed);
    // Takes as long for one wrong digit as for another.
    seal.len() == right.len()
        && seal
            .bytes()
            .zip(right.bytes())
            .fold(0, |different, (one, other)| different | (one ^ other))
            == 0
}

fn mac(table: pg_sys::Oid, trigger: pg_sys::Oid, arguments: &[String]) -> [u8; 16] {
    // SAFETY: set for the life of a backend.
    let database = unsafe { pg_sys::MyDatabaseId };
    let mut sealed = Vec::new();
    for oid in [database, table, trigger] {
        sealed.extend_from_slice(&oid.to_u32().to_le_bytes());
    }
    for argument in arguments {
        sealed.extend_from_slice(&(argument.len() as u64).to_le_bytes());
        sealed.extend_from_slice(argument.as_bytes());
    }
    KEY.with(|key| {
        key.get_or_init(|| MacKey::derive("pg_cdc 1 trigger", &cluster_secret()))
            .mac(&[&sealed])
    })
}
