//! When this source gets its identity, and when it must not make one.

use std::fs;
use std::io::ErrorKind;

use change::code::Code;
use change::trouble::Trouble;
use pgrx::pg_sys;
use shipper::files::source::{FILE, Source};
use shipper::files::{durable, local_position};

use super::wal::slot;
use crate::report::Raise;
use crate::settings;

/// Says that this server was once a standby without the identity of its primary: it must not make one of its own, for then
/// the tables that are tracked here would count as another source's.
const HEIR: &str = "pg_cdc/without_identity";
/// PostgreSQL's own: a server that these files tell to follow another one, or to restore a backup, is somebody already.
const SIGNALS: [&str; 2] = ["standby.signal", "recovery.signal"];

/// The identity at server start, before anybody can write. Made at the very first one; none where it is missing and may
/// not be made. In the postmaster, or in a server that is a single process.
fn at_server_start() -> std::io::Result<Option<Source>> {
    if let Some(source) = Source::read()? {
        return Ok(Some(source));
    }
    // SAFETY: a plain read, of a variable that is set before libraries are loaded.
    if unsafe { pg_sys::IsBinaryUpgrade } {
        return Ok(None);
    }
    if SIGNALS.iter().any(|signal| is_there(signal)) {
        durable::replace(HEIR, |_| Ok(()))?;
        return Ok(None);
    }
    if !is_new() {
        return Ok(None);
    }
    make().map(Some)
}

/// The source id at server start, none while it is not known; what keeps it from being read is logged.
pub(crate) fn id_at_server_start() -> Option<String> {
    match at_server_start() {
        Ok(source) => source.map(|source| source.source_id),
        Err(error) => {
            unreadable(&error).log();
            None
        }
    }
}

/// Reads the identity, or makes it for a server that never had one.
pub(crate) fn load_or_create() -> std::io::Result<Source> {
    match Source::read()? {
        Some(source) => Ok(source),
        None if is_new() => make(),
        None => Err(std::io::Error::new(
            ErrorKind::NotFound,
            format!(
                "{FILE} is missing, though this server has shipped changes or followed one that did"
            ),
        )),
    }
}

/// CDC0405.
fn unreadable(error: &std::io::Error) -> Trouble {
    Trouble::new(
        Code::PositionNotTrusted,
        format!("the source's identity cannot be read or made: {error}"),
        remedy(error),
    )
    .detail("Changes of tracked tables are captured, and shipped once the identity is there.")
}

/// What to do about an identity that cannot be read or made.
pub(crate) fn remedy(error: &std::io::Error) -> String {
    if error.kind() == ErrorKind::NotFound {
        format!(
            "Copy {FILE} from a backup, or from the server that was followed, and SELECT pg_reload_conf(). If no table was tracked there: remove {HEIR} instead."
        )
    } else {
        "See that the server can read and write the folder pg_cdc in its data directory, and SELECT pg_reload_conf()."
            .to_owned()
    }
}

/// Whether nothing says that this server has, or should have, an identity.
fn is_new() -> bool {
    let slot = slot::name(&settings::text(&settings::SOURCE_NAME));
    !is_there(HEIR) && !is_there(local_position::FILE) && !is_there(&format!("pg_replslot/{slot}"))
}

fn is_there(path: &str) -> bool {
    fs::exists(path).unwrap_or(true)
}

fn make() -> std::io::Result<Source> {
    let mut random = [0; 16];
    // SAFETY: fills the array; a failure is told.
    let random_is_there =
        unsafe { pg_sys::pg_strong_random(random.as_mut_ptr().cast(), random.len()) };
    if !random_is_there {
        return Err(std::io::Error::other("no random bytes could be had"));
    }
    Source::make(random)
}
