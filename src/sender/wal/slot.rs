//! The physical replication slot `cdc_<source_name>`: it holds the WAL, and nothing else (no xmin, no vacuum damage).

use std::ffi::CString;
use std::sync::atomic::Ordering;

use change::code::Code;
use change::trouble::Trouble;
use pgrx::pg_sys;

use super::reader::flushed;
use crate::ffi;
use crate::shared::Shared;

/// The slot's file lags behind by at most this: at a crash the saved value counts.
const MAX_UNSAVED_BYTES: u64 = 64 * 1024 * 1024;

/// The held slot.
#[derive(Debug)]
pub(crate) struct Slot {
    saved_lsn: u64,
}

/// Name of the slot of a source.
pub(crate) fn name(source_name: &str) -> String {
    format!("cdc_{}", source_name.to_ascii_lowercase())
}

impl Slot {
    /// Takes hold of the slot, making it if there is none. Problems that an ERROR would report are looked for first:
    /// an ERROR ends the worker.
    pub(crate) fn hold(source_name: &str) -> Result<Slot, Trouble> {
        let name = name(source_name);
        let c_name = CString::new(name.clone()).unwrap_or_default();
        // SAFETY: on the sender's main thread, which holds no slot; plain reads of settings and of the slot array.
        unsafe {
            if pg_sys::wal_level < pg_sys::WalLevel::WAL_LEVEL_REPLICA as i32 {
                return Err(Trouble::new(
                    Code::WalLevelMinimal,
                    "wal_level is minimal",
                    "Set wal_level = replica and restart the server.",
                ));
            }
            let found = pg_sys::SearchNamedReplicationSlot(c_name.as_ptr(), true);
            if found.is_null() {
                if !has_free_slot() {
                    return Err(Trouble::new(
                        Code::NoFreeSlot,
                        "no free replication slot",
                        "Raise max_replication_slots and restart the server, or drop a slot that is not used.",
                    ));
                }
                ffi::create_physical_slot(&c_name);
                reserve();
            } else {
                let holder = (*found).active_pid;
                if holder != 0 {
                    return Err(Trouble::new(
                        Code::SlotNotHeld,
                        format!("slot \"{name}\" is held by process {holder}"),
                        "Stop the process that uses the slot; it belongs to pg_cdc.",
                    ));
                }
                ffi::acquire_slot(&c_name);
                if (*pg_sys::MyReplicationSlot).data.restart_lsn == 0 {
                    // The server invalidated it. That is a gap only if the WAL that is needed cannot be read.
                    pg_sys::ReplicationSlotRelease();
                    pg_sys::ReplicationSlotDrop(c_name.as_ptr(), true);
                    ffi::create_physical_slot(&c_name);
                    reserve();
                }
            }
            Ok(Slot {
                saved_lsn: (*pg_sys::MyReplicationSlot).data.restart_lsn,
            })
        }
    }

    /// Where the WAL that is held begins.
    pub(crate) fn restart_lsn(&self) -> u64 {
        // SAFETY: the slot is held, and only its holder moves it.
        unsafe { (*pg_sys::MyReplicationSlot).data.restart_lsn }
    }

    /// Lets go of the WAL before `lsn`, which must be durably recorded as not needed any more.
    pub(crate) fn advance(&mut self, shared: &Shared, lsn: u64) {
        if lsn <= self.restart_lsn() {
            return;
        }
        self.place(shared, lsn);
        if lsn.abs_diff(self.saved_lsn) >= self.save_every_bytes() {
            self.save();
        }
    }

    /// Moves back to `lsn`, from which reading is to begin, if the server lets WAL be held from there.
    pub(crate) fn hold_from(&mut self, shared: &Shared, lsn: u64) {
        let (_, flush_lsn) = flushed();
        // SAFETY: a plain read of a setting.
        let limit_mb = unsafe { pg_sys::max_slot_wal_keep_size_mb };
        let is_too_far = u64::try_from(limit_mb)
            .is_ok_and(|limit_mb| flush_lsn.saturating_sub(lsn) > limit_mb * 1024 * 1024);
        // Beyond the limit the next checkpoint would only take the slot away again, and end this process for it.
        if lsn < self.restart_lsn() && !is_too_far {
            self.place(shared, lsn);
            self.write();
        }
    }

    /// Lets go of all WAL before `lsn`, though it is needed.
    pub(crate) fn let_go(&mut self, shared: &Shared, lsn: u64) {
        self.place(shared, lsn);
        self.write();
    }

    /// Removes the slot: nothing is held any more.
    pub(crate) fn drop_it(self, shared: &Shared) {
        // SAFETY: the slot is held by this process; its name is copied before it is let go.
        unsafe {
            let name = (*pg_sys::MyReplicationSlot).data.name;
            pg_sys::ReplicationSlotRelease();
            pg_sys::ReplicationSlotDrop(name.data.as_ptr(), true);
        }
        shared.restart_lsn.store(0, Ordering::Relaxed);
    }

    fn place(&self, shared: &Shared, lsn: u64) {
        // SAFETY: the slot is held by this process; its fields change under its own spinlock, as walsender.c's
        // PhysicalConfirmReceivedLocation does it.
        unsafe {
            let slot = pg_sys::MyReplicationSlot;
            ffi::with_spinlock(&raw mut (*slot).mutex, || (*slot).data.restart_lsn = lsn);
            pg_sys::ReplicationSlotMarkDirty();
            pg_sys::ReplicationSlotsComputeRequiredLSN();
        }
        shared.restart_lsn.store(lsn, Ordering::Relaxed);
    }

    fn write(&mut self) {
        // SAFETY: the slot is held.
        unsafe { pg_sys::ReplicationSlotSave() };
        self.saved_lsn = self.restart_lsn();
    }

    /// Writes the slot's state to disk.
    pub(crate) fn save(&mut self) {
        if self.restart_lsn() != self.saved_lsn {
            self.write();
        }
    }

    fn save_every_bytes(&self) -> u64 {
        // SAFETY: a plain read of a setting.
        let limit_mb = unsafe { pg_sys::max_slot_wal_keep_size_mb };
        match u64::try_from(limit_mb) {
            Ok(limit_mb) => (limit_mb * 1024 * 1024 / 4).min(MAX_UNSAVED_BYTES),
            Err(_) => MAX_UNSAVED_BYTES,
        }
    }
}

unsafe fn reserve() {
    // SAFETY: the slot was just made and is held.
    unsafe {
        pg_sys::ReplicationSlotReserveWal();
        pg_sys::ReplicationSlotMarkDirty();
        pg_sys::ReplicationSlotSave();
    }
}

unsafe fn has_free_slot() -> bool {
    // SAFETY: the array has max_replication_slots entries; a slot that is taken meanwhile gives PostgreSQL's own ERROR.
    unsafe {
        let slots = (*pg_sys::ReplicationSlotCtl).replication_slots.as_ptr();
        (0..pg_sys::max_replication_slots as usize).any(|index| !(*slots.add(index)).in_use)
    }
}

/// Lets go of the slot, if it is held: the first thing at every exit, for the checkpointer may be waiting for it.
pub(crate) fn release() {
    // SAFETY: on the main thread.
    unsafe {
        if !pg_sys::MyReplicationSlot.is_null() {
            pg_sys::ReplicationSlotRelease();
        }
    }
}
