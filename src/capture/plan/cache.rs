//! The plans of a backend, kept until what they were made of changes.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use pgrx::pg_sys;

use super::build::build_plan;
use super::dropping::is_dropping;
use super::table_plan::Plan;
use super::validity::Validity;
use crate::shared;

/// The plans of this backend.
#[derive(Default)]
pub(crate) struct Plans {
    /// By trigger: a table may have several that call our function.
    plans: HashMap<pg_sys::Oid, Box<Plan>, BuildHasherDefault<OidHasher>>,
    /// Of topics into which applications emit events.
    topics: HashMap<String, Box<Plan>>,
    next_id: u64,
}

/// Hashes an oid by one multiplication: this is looked up for every row, and oids are nobody's to choose.
#[derive(Default)]
struct OidHasher(u64);

impl Hasher for OidHasher {
    #[inline]
    fn write_u32(&mut self, oid: u32) {
        self.0 = u64::from(oid).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    }

    #[inline]
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        }
    }

    #[inline]
    fn finish(&self) -> u64 {
        self.0
    }
}

impl Plans {
    /// The plan for the trigger that runs, and so for its relation.
    ///
    /// # Safety
    /// `trigger` is the data that PostgreSQL passed to a running trigger function.
    #[inline]
    pub(crate) unsafe fn plan(&mut self, trigger: &pg_sys::TriggerData) -> &Plan {
        // SAFETY: the relation of a running trigger is open.
        let oid = unsafe { (*trigger.tg_trigger).tgoid };
        let identity_number = shared::identity_number();
        if !self
            .plans
            .get(&oid)
            .is_some_and(|plan| plan.validity.holds() && plan.identity_number == identity_number)
        {
            // SAFETY: as the caller promises.
            unsafe { self.build(oid, trigger) };
        }
        &self.plans[&oid]
    }

    /// The plan for events of the application's own; `check` may refuse a topic that is new here.
    pub(crate) fn of_topic(&mut self, topic: &str, check: impl FnOnce()) -> &Plan {
        if !self
            .topics
            .get(topic)
            .is_some_and(|plan| plan.validity.holds())
        {
            let validity = Validity::of_nothing();
            check();
            self.next_id += 1;
            // A table that is tracked later may take the topic: then it is looked at again.
            validity.depend_on(&[pg_sys::InvalidOid]);
            let plan = Plan::of_topic(self.next_id, validity, topic);
            self.topics.insert(topic.to_owned(), Box::new(plan));
        }
        &self.topics[topic]
    }

    /// The plan that was last made for a trigger, whether it is still right or not.
    pub(crate) fn known(&self, trigger: pg_sys::Oid) -> Option<&Plan> {
        self.plans.get(&trigger).map(Box::as_ref)
    }

    #[cold]
    unsafe fn build(&mut self, oid: pg_sys::Oid, trigger: &pg_sys::TriggerData) {
        // SAFETY: the relation of a running trigger is open.
        let validity = Validity::of_table(unsafe { (*trigger.tg_relation).rd_id });
        self.next_id += 1;
        // Read before what depends on it: should it change in between, the plan is made anew.
        let identity_number = shared::identity_number();
        // SAFETY: as the caller promises.
        let plan = unsafe { build_plan(self.next_id, validity.clone(), trigger) };
        let plan = Plan {
            identity_number,
            ..plan
        };
        if is_dropping() {
            // Of what is left of the table, for the event that says so, and for nothing else.
            validity.end();
        }
        self.plans.insert(oid, Box::new(plan));
    }
}
