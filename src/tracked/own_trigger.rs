//! Which triggers are pg_cdc's own, and which of them count. Names alone say nothing, for everybody may use them; nor does
//! the function, for everybody may call it in a trigger: it must be sealed (`super::seal`).

use std::ffi::CStr;

use change::options::{Operation, Options};
use pgrx::pg_sys;

use super::place::is_copy;
use super::seal;
use crate::text::utf8;

pub(crate) const ROW_TRIGGER: &str = "_cdc";
pub(crate) const TRUNCATE_TRIGGER: &str = "_cdc_truncate";

/// Condition on `pg_trigger t`: it is a row trigger of ours, a partition's clone included.
pub(crate) const IS_ROW_TRIGGER: &str = "(t.tgname = '_cdc' AND t.tgfoid = (
    SELECT p.oid FROM pg_catalog.pg_extension e JOIN pg_catalog.pg_proc p ON p.pronamespace = e.extnamespace
    WHERE e.extname = 'pg_cdc' AND p.proname = 'cdc_capture' AND p.pronargs = 0))";
/// Condition on `pg_trigger t`: it is a TRUNCATE trigger of ours.
pub(crate) const IS_TRUNCATE_TRIGGER: &str = "(t.tgname = '_cdc_truncate' AND t.tgfoid = (
    SELECT p.oid FROM pg_catalog.pg_extension e JOIN pg_catalog.pg_proc p ON p.pronamespace = e.extnamespace
    WHERE e.extname = 'pg_cdc' AND p.proname = 'cdc_capture_truncate' AND p.pronargs = 0))";

/// What [`Tracked::from_row`] reads of `pg_trigger t`.
pub(crate) const COLUMNS: &str = "t.tgrelid, t.oid, t.tgargs, t.tgtype, t.tgqual IS NULL AND t.tgattr::text = '' AND NOT t.tgdeferrable";

/// The trigger's name and function, as `cdc_track` makes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Own {
    Row,
    Truncate,
}

impl Own {
    pub(crate) const ALL: [Own; 2] = [Own::Row, Own::Truncate];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Own::Row => ROW_TRIGGER,
            Own::Truncate => TRUNCATE_TRIGGER,
        }
    }

    fn function(self) -> &'static str {
        match self {
            Own::Row => "cdc_capture",
            Own::Truncate => "cdc_capture_truncate",
        }
    }

    /// Whether the trigger has the name and calls the extension's function.
    ///
    /// # Safety
    /// The relation that the trigger belongs to is open; inside a transaction.
    pub(crate) unsafe fn is(self, trigger: &pg_sys::Trigger) -> bool {
        // SAFETY: as the caller promises; names are zero-ended.
        unsafe { self.calls(CStr::from_ptr(trigger.tgname).to_bytes(), trigger.tgfoid) }
    }

    /// The same, of a trigger's name and function alone.
    ///
    /// # Safety
    /// Inside a transaction.
    pub(crate) unsafe fn calls(self, name: &[u8], function: pg_sys::Oid) -> bool {
        // SAFETY: as the caller promises.
        name == self.name().as_bytes() && unsafe { is_function(function, self.function()) }
    }

    /// The relation's trigger of this kind, as the relation cache has it now.
    pub(crate) fn of(self, relation: &pg_sys::RelationData) -> Option<*mut pg_sys::Trigger> {
        // SAFETY: the relation is open.
        triggers(relation).find(|trigger| unsafe { self.is(&**trigger) })
    }
}

/// A trigger by its name, whoever made it.
pub(crate) fn named(relation: &pg_sys::RelationData, name: &str) -> Option<*mut pg_sys::Trigger> {
    // SAFETY: the relation is open; names are zero-ended.
    triggers(relation)
        .find(|trigger| unsafe { CStr::from_ptr((**trigger).tgname).to_bytes() == name.as_bytes() })
}

/// Copies, as the executor makes them: a look-up in a catalog may have the relation cache build its descriptions anew.
fn triggers(relation: &pg_sys::RelationData) -> impl Iterator<Item = *mut pg_sys::Trigger> {
    // SAFETY: the relation is open; its trigger descriptions are null or an array of the stated length, and so is a copy,
    // which lives as long as the memory of the current context.
    let (first, count) = unsafe {
        let description = pg_sys::CopyTriggerDesc(relation.trigdesc);
        if description.is_null() {
            (std::ptr::null_mut(), 0)
        } else {
            ((*description).triggers, (*description).numtriggers as usize)
        }
    };
    // SAFETY: as above.
    (0..count).map(move |index| unsafe { first.add(index) })
}

/// Whether an oid is the extension's function of this name. Members of an extension are made with it.
unsafe fn is_function(oid: pg_sys::Oid, name: &str) -> bool {
    // SAFETY: catalog look-ups inside a transaction; the name is copied into memory of the current context.
    unsafe {
        let found = pg_sys::get_func_name(oid);
        if found.is_null() || CStr::from_ptr(found).to_bytes() != name.as_bytes() {
            return false;
        }
        let extension = pg_sys::get_extension_oid(c"pg_cdc".as_ptr(), true);
        extension != pg_sys::InvalidOid
            && pg_sys::getExtensionOfObject(pg_sys::ProcedureRelationId, oid) == extension
    }
}

/// What a row trigger of ours is worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    /// `cdc_track` made it here.
    Here,
    /// It was made in another database or on another server.
    Copy,
    /// Its arguments say that it was made here, and are not sealed.
    Unsealed,
}

/// A table's own row trigger, read.
#[derive(Debug, Clone)]
pub(crate) struct Tracked {
    /// As they stand, the seal included.
    pub arguments: Vec<String>,
    pub options: Options,
    pub standing: Standing,
}

impl Tracked {
    pub(crate) fn is_here(&self) -> bool {
        self.standing == Standing::Here
    }

    /// Judges a trigger that is none of a partition's clones. `kind` is its `tgtype`, `is_plain` says that it has neither
    /// WHEN nor a list of columns.
    pub(crate) fn judge(
        table: pg_sys::Oid,
        trigger: pg_sys::Oid,
        arguments: Vec<String>,
        kind: i16,
        is_plain: bool,
    ) -> Tracked {
        let options = Options::parse(arguments.iter().map(String::as_str));
        let standing = if is_copy(&options.source) {
            Standing::Copy
        } else if is_plain && kind == kind_of(&options) && seal::holds(table, trigger, &arguments) {
            Standing::Here
        } else {
            Standing::Unsealed
        };
        Tracked {
            arguments,
            options,
            standing,
        }
    }

    /// Reads and judges a row of `pg_trigger t`, selected as [`COLUMNS`]: the table, and its trigger.
    pub(crate) fn from_row(
        row: &pgrx::spi::SpiHeapTupleData<'_>,
    ) -> Result<(pg_sys::Oid, Tracked), pgrx::spi::SpiError> {
        let table = row.get::<pg_sys::Oid>(1)?.unwrap_or(pg_sys::InvalidOid);
        let tracked = Tracked::judge(
            table,
            row.get::<pg_sys::Oid>(2)?.unwrap_or(pg_sys::InvalidOid),
            split_arguments(&row.get::<Vec<u8>>(3)?.unwrap_or_default()),
            row.get::<i16>(4)?.unwrap_or_default(),
            row.get::<bool>(5)?.unwrap_or_default(),
        );
        Ok((table, tracked))
    }

    /// Reads and judges the relation's own row trigger; a clone counts for the table it was made for.
    pub(crate) fn of(relation: &pg_sys::RelationData) -> Option<Tracked> {
        // SAFETY: the relation is open, so its trigger descriptions stay.
        unsafe {
            let trigger = &*Own::Row.of(relation)?;
            (!trigger.tgisclone).then(|| {
                Tracked::judge(
                    relation.rd_id,
                    trigger.tgoid,
                    arguments_of(trigger),
                    trigger.tgtype,
                    trigger.tgqual.is_null() && trigger.tgnattr == 0 && !trigger.tgdeferrable,
                )
            })
        }
    }
}

/// `tgtype` of the row trigger that `cdc_track` makes.
fn kind_of(options: &Options) -> i16 {
    let events = [
        (Operation::Insert, pg_sys::TRIGGER_TYPE_INSERT),
        (Operation::Update, pg_sys::TRIGGER_TYPE_UPDATE),
        (Operation::Delete, pg_sys::TRIGGER_TYPE_DELETE),
    ];
    let kind = events
        .into_iter()
        .filter(|(operation, _)| options.operations.contains(*operation))
        .fold(pg_sys::TRIGGER_TYPE_ROW, |kind, (_, event)| kind | event);
    kind as i16
}

/// A trigger's arguments, in UTF-8.
pub(crate) fn arguments_of(trigger: &pg_sys::Trigger) -> Vec<String> {
    // SAFETY: a trigger has as many zero-ended arguments as it says.
    unsafe {
        (0..trigger.tgnargs as usize)
            .map(|index| utf8(CStr::from_ptr(*trigger.tgargs.add(index)).to_bytes()))
            .collect()
    }
}

/// The arguments in `pg_trigger.tgargs`, each of which ends in a zero byte, in UTF-8.
pub(crate) fn split_arguments(bytes: &[u8]) -> Vec<String> {
    let bytes = bytes.strip_suffix(&[0]).unwrap_or(bytes);
    bytes.split(|byte| *byte == 0).map(utf8).collect()
}
