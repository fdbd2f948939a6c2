//! Whether plans are still right: PostgreSQL says what changed.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;

use pgrx::pg_sys;

/// Whether a plan is still right.
#[derive(Clone)]
pub(crate) struct Validity(Rc<Cell<bool>>);

impl Validity {
    /// Of a plan that is valid until something changes that it [depends on](Validity::depend_on).
    pub(super) fn of_nothing() -> Validity {
        listen();
        Validity(Rc::new(Cell::new(true)))
    }

    /// Of a plan of this table. Made before the catalog is read: a change in between makes the plan invalid at once.
    pub(super) fn of_table(relation: pg_sys::Oid) -> Validity {
        let validity = Validity::of_nothing();
        OF_TABLES.with_borrow_mut(|tables| {
            let plans = tables.entry(relation).or_default();
            plans.retain(Validity::holds);
            plans.push(validity.clone());
        });
        validity
    }

    /// Makes the plan depend on further relations: the composite types of its columns, the root of a partition. Changes of
    /// those invalidate it alone.
    pub(super) fn depend_on(&self, relations: &[pg_sys::Oid]) {
        DEPENDENTS.with_borrow_mut(|plans| {
            plans.retain(|(_, validity)| validity.holds());
            plans.extend(relations.iter().map(|oid| (*oid, self.clone())));
        });
    }

    #[inline]
    pub(super) fn holds(&self) -> bool {
        self.0.get()
    }

    pub(super) fn end(&self) {
        self.0.set(false);
    }
}

thread_local! {
    /// Whether the plans of a table are still right, by the table. Apart from the plans, so that an invalidation can
    /// arrive while they are in use (it does, in the middle of catalog access).
    static OF_TABLES: RefCell<HashMap<pg_sys::Oid, Vec<Validity>>> = RefCell::new(HashMap::new());
    /// Relations other than its own, and a plan that is made of them; invalid for whatever relation.
    static DEPENDENTS: RefCell<Vec<(pg_sys::Oid, Validity)>> = const { RefCell::new(Vec::new()) };
    static LISTENING: Cell<bool> = const { Cell::new(false) };
}

/// Registers for invalidations, once per backend (PostgreSQL cannot unregister).
fn listen() {
    if !LISTENING.replace(true) {
        // SAFETY: both callbacks live as long as the library, which is never unloaded.
        unsafe {
            pg_sys::CacheRegisterRelcacheCallback(Some(relation_changed), pg_sys::Datum::from(0));
            // Names of schemas and labels of enums are part of the plan, and renaming them does not touch the tables.
            for cache in [
                pg_sys::SysCacheIdentifier::NAMESPACEOID,
                pg_sys::SysCacheIdentifier::ENUMOID,
            ] {
                pg_sys::CacheRegisterSyscacheCallback(
                    cache as i32,
                    Some(name_changed),
                    pg_sys::Datum::from(0),
                );
            }
        }
    }
}

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn relation_changed(_arg: pg_sys::Datum, relid: pg_sys::Oid) {
    OF_TABLES.with_borrow(|tables| {
        if relid == pg_sys::InvalidOid {
            end_all(tables);
        } else if let Some(plans) = tables.get(&relid) {
            plans.iter().for_each(Validity::end);
        }
    });
    DEPENDENTS.with_borrow(|plans| {
        let dependent = plans
            .iter()
            .filter(|(oid, _)| *oid == relid || *oid == pg_sys::InvalidOid);
        dependent.for_each(|(_, validity)| validity.end());
    });
}

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn name_changed(_arg: pg_sys::Datum, _cache: i32, _hash: u32) {
    OF_TABLES.with_borrow(end_all);
}

fn end_all(tables: &HashMap<pg_sys::Oid, Vec<Validity>>) {
    tables.values().flatten().for_each(Validity::end);
}
