//! Which database of which server a trigger was made in.

use pgrx::pg_sys;

use crate::shared;

/// The source and database that a trigger made here and now belongs to; none while the server's identity is not known.
pub(crate) fn place() -> Option<String> {
    let source_id = shared::shared()?.source_id();
    (!source_id.is_empty()).then(|| format!("{source_id}/{}", database_oid()))
}

/// Whether a trigger with this `source=` was made in another database or on another server. While the server's identity is
/// not known its own tables are none: what they capture must not be lost.
pub(crate) fn is_copy(source: &str) -> bool {
    match place() {
        Some(place) => source != place,
        None => source
            .rsplit_once('/')
            .is_none_or(|(_, database)| database != database_oid().to_string()),
    }
}

fn database_oid() -> u32 {
    // SAFETY: set for the life of a backend.
    unsafe { pg_sys::MyDatabaseId }.to_u32()
}
