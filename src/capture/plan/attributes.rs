//! Attributes of a table, and of a partition in the order of its root.

use pgrx::pg_sys;

use crate::capture::filter::row_expression::RowExpression;
use crate::catalog::{key_attributes, name_of, tuple_attribute, with_identity_index};

/// Indexes of the attributes that a tuple of the relation has.
pub(super) unsafe fn live_attributes(relation: pg_sys::Relation) -> Vec<usize> {
    // SAFETY: the relation is open.
    unsafe {
        let descriptor = (*relation).rd_att;
        (0..(*descriptor).natts as usize)
            .filter(|attribute| {
                let form = tuple_attribute(descriptor, *attribute);
                !form.attisdropped
            })
            .collect()
    }
}

/// Attribute indexes of the primary key, else of the replica identity index; empty for none.
pub(super) unsafe fn identity_attributes(relation: pg_sys::Relation) -> Vec<usize> {
    // SAFETY: the relation is open.
    with_identity_index(unsafe { &*relation }, key_attributes).unwrap_or_default()
}

/// Live attributes and identity of a partition, in the order of its root: indexes into the partition's attributes.
pub(super) unsafe fn as_the_root_has_them(
    partition: pg_sys::Relation,
    root: pg_sys::Oid,
) -> (Vec<usize>, Vec<usize>) {
    // SAFETY: the partition is open; the root is opened while it is read, and closed by the transaction after an ERROR.
    unsafe {
        let own: Vec<(usize, String)> = live_attributes(partition)
            .into_iter()
            .map(|attribute| {
                (
                    attribute,
                    name_of(tuple_attribute((*partition).rd_att, attribute)),
                )
            })
            .collect();
        read_root(root, |relation| {
            let own_attributes = |of_root: Vec<usize>| -> Vec<usize> {
                let names = of_root
                    .into_iter()
                    .map(|attribute| name_of(tuple_attribute((*relation).rd_att, attribute)));
                names
                    .filter_map(|name| own.iter().find(|(_, own)| *own == name))
                    .map(|(attribute, _)| *attribute)
                    .collect()
            };
            (
                own_attributes(live_attributes(relation)),
                own_attributes(identity_attributes(relation)),
            )
        })
    }
}

/// Reads something of the table that a locked partition belongs to. That one is not locked: who changes what is read here
/// locks the partitions as well, and would wait for this transaction while it waited for him.
pub(super) unsafe fn read_root<R>(
    root: pg_sys::Oid,
    read: impl FnOnce(pg_sys::Relation) -> R,
) -> R {
    // SAFETY: inside a transaction, as the caller promises; after an ERROR its end lets go of the relation.
    unsafe {
        let relation = pg_sys::RelationIdGetRelation(root);
        if relation.is_null() {
            pgrx::error!("could not open relation with OID {}", root.to_u32());
        }
        let result = read(relation);
        pg_sys::RelationClose(relation);
        result
    }
}

/// Virtual generated columns (18) are computed when read: the tuple holds nothing of them.
pub(super) fn is_virtual(form: &pg_sys::FormData_pg_attribute) -> bool {
    form.attgenerated == b'v' as std::ffi::c_char
}

/// What computes a generated column.
pub(super) unsafe fn generated(relation: pg_sys::Relation, attribute: usize) -> RowExpression {
    // SAFETY: the relation is open and locked by the statement whose trigger runs; the column is a generated one. Its
    // expression calls built-in immutable functions only (check_virtual_generated_security in catalog/heap.c).
    unsafe {
        RowExpression::new(relation, || {
            #[cfg(feature = "pg18")]
            return pg_sys::build_generation_expression(relation, attribute as i32 + 1);
            #[cfg(not(feature = "pg18"))]
            return pg_sys::build_column_default(relation, attribute as i32 + 1);
        })
    }
}
