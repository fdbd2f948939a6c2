//! What the catalogs and the relation cache say of a relation.

use std::ffi::CStr;

use pgrx::pg_sys;

use crate::text::utf8;

/// Name of the database that this backend is connected to.
pub(crate) fn database_name() -> String {
    // SAFETY: MyDatabaseId is set for the life of a backend; the returned text is copied.
    unsafe {
        let name = pg_sys::get_database_name(pg_sys::MyDatabaseId);
        if name.is_null() {
            String::new()
        } else {
            utf8(CStr::from_ptr(name).to_bytes())
        }
    }
}

/// Schema and name of a relation, in UTF-8.
pub(crate) fn qualified_name(oid: pg_sys::Oid) -> (String, String) {
    // SAFETY: catalog look-ups inside the running transaction; the texts are copied.
    unsafe {
        let text = |pointer: *mut std::ffi::c_char| {
            if pointer.is_null() {
                String::new()
            } else {
                utf8(CStr::from_ptr(pointer).to_bytes())
            }
        };
        (
            text(pg_sys::get_namespace_name(pg_sys::get_rel_namespace(oid))),
            text(pg_sys::get_rel_name(oid)),
        )
    }
}

/// The name of a column, in UTF-8.
pub(crate) fn name_of(form: &pg_sys::FormData_pg_attribute) -> String {
    // SAFETY: the name type ends in a zero byte.
    utf8(unsafe { CStr::from_ptr(form.attname.data.as_ptr()) }.to_bytes())
}

/// The attribute of a descriptor.
///
/// # Safety
/// `attribute` is below the descriptor's `natts`.
pub(crate) unsafe fn tuple_attribute<'a>(
    descriptor: pg_sys::TupleDesc,
    attribute: usize,
) -> &'a pg_sys::FormData_pg_attribute {
    // SAFETY: as the caller promises; before 18 the attributes follow the descriptor, from 18 on the compact ones do
    // and the full ones follow those (TupleDescAttr in access/tupdesc.h).
    unsafe {
        #[cfg(not(feature = "pg18"))]
        return &*(*descriptor).attrs.as_ptr().add(attribute);
        #[cfg(feature = "pg18")]
        {
            let compact = (*descriptor).compact_attrs.as_ptr();
            let full: *const pg_sys::FormData_pg_attribute =
                compact.add((*descriptor).natts as usize).cast();
            &*full.add(attribute)
        }
    }
}

/// Reads something of the index of an open relation's primary key, else of its replica identity; none if there is neither.
pub(crate) fn with_identity_index<R>(
    relation: &pg_sys::RelationData,
    read: impl FnOnce(&pg_sys::RelationData) -> R,
) -> Option<R> {
    // SAFETY: the relation is open; the list and the index are released again.
    unsafe {
        pg_sys::list_free(pg_sys::RelationGetIndexList(
            std::ptr::from_ref(relation).cast_mut(),
        ));
        let index_oid = if relation.rd_pkindex != pg_sys::InvalidOid {
            relation.rd_pkindex
        } else {
            relation.rd_replidindex
        };
        if index_oid == pg_sys::InvalidOid {
            return None;
        }
        let index = pg_sys::index_open(index_oid, pg_sys::AccessShareLock as pg_sys::LOCKMODE);
        let result = read(&*index);
        pg_sys::index_close(index, pg_sys::AccessShareLock as pg_sys::LOCKMODE);
        Some(result)
    }
}

/// Indexes of the attributes that an open index has as its key.
pub(crate) fn key_attributes(index: &pg_sys::RelationData) -> Vec<usize> {
    // SAFETY: the index is open, and has as many numbers as it says.
    let numbers = unsafe {
        let form = &*index.rd_index;
        form.indkey.values.as_slice(form.indnkeyatts as usize)
    };
    numbers
        .iter()
        .filter(|number| **number > 0)
        .map(|number| *number as usize - 1)
        .collect()
}

/// The relation that a command names; none if it will not find any. No lock is taken.
///
/// # Safety
/// In a transaction; `name` is a name of a command that is about to run.
pub(crate) unsafe fn relation_of_name(name: *mut pg_sys::RangeVar) -> Option<pg_sys::Oid> {
    // SAFETY: as the caller promises.
    let found = unsafe {
        pg_sys::RangeVarGetRelidExtended(
            name,
            pg_sys::NoLock as pg_sys::LOCKMODE,
            pg_sys::RVROption::RVR_MISSING_OK,
            None,
            std::ptr::null_mut(),
        )
    };
    (found != pg_sys::InvalidOid).then_some(found)
}
