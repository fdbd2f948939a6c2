//! The plan of a tracked table: everything about it that capture needs for a row, made once and kept until the
//! relation cache says that the table changed.
//!
//! The trigger's arguments are the configuration: `topic=…`, `key=a,b`, `source=<source id>/<database oid>`.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::ffi::CStr;
use std::hash::{BuildHasherDefault, Hasher};
use std::rc::Rc;

use change::body::put_relation;
use change::kind::Kind;
use pgrx::pg_sys;
use pgrx::prelude::*;

use super::utf8;
use crate::report::Report;
use crate::{ffi, shared};

/// How a column's datum becomes bytes.
pub enum Encode {
    /// Passed by value: its low bytes.
    ByValue(usize),
    /// Passed by reference, of fixed length.
    ByReference(usize),
    /// A varlena whose content is taken as it is.
    Varlena,
    /// The same, converted from the database's encoding.
    VarlenaText,
    /// Through the type's output function; length and passing are the type's (pg_type.typlen, typbyval).
    Output {
        function: Box<pg_sys::FmgrInfo>,
        length: i16,
        by_value: bool,
    },
    /// The fixed name type.
    Name,
}

/// A live column.
pub struct PlanColumn {
    /// Index into the tuple's attributes.
    pub attribute: usize,
    pub encode: Encode,
}

/// A table as capture sees it.
pub struct Plan {
    /// Differs for every plan that this backend ever made.
    pub id: u64,
    /// The relation's entry for chunks, with its length.
    pub blob: Vec<u8>,
    pub columns: Vec<PlanColumn>,
    /// Columns whose change is a change of the Kafka key or the identity (indexes into `columns`).
    pub key_columns: Vec<usize>,
    /// Attributes of a tuple, dropped ones included.
    pub attributes: usize,
    /// Why rows of this table are not captured, after a warning was given.
    pub silent: bool,
    valid: Rc<Cell<bool>>,
}

/// The plans of this backend.
#[derive(Default)]
pub struct Plans {
    plans: HashMap<pg_sys::Oid, Box<Plan>, BuildHasherDefault<OidHasher>>,
    next_id: u64,
}

/// Hashes an oid by one multiplication: this is looked up for every row, and oids are nobody's to choose.
#[derive(Default)]
struct OidHasher(u64);

impl Hasher for OidHasher {
    fn write_u32(&mut self, oid: u32) {
        self.0 = u64::from(oid).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        }
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

thread_local! {
    /// Whether the plan of a table is still right. Apart from the plans, so that an invalidation can arrive while
    /// they are in use (it does, in the middle of catalog access).
    static VALIDITY: RefCell<HashMap<pg_sys::Oid, Rc<Cell<bool>>>> = RefCell::new(HashMap::new());
    static LISTENING: Cell<bool> = const { Cell::new(false) };
}

impl Plans {
    /// The plan for the relation and trigger of `trigger`.
    ///
    /// # Safety
    /// `trigger` is the data that PostgreSQL passed to a running trigger function.
    #[inline]
    pub unsafe fn plan(&mut self, trigger: &pg_sys::TriggerData) -> &Plan {
        // SAFETY: the relation of a running trigger is open.
        let oid = unsafe { (*trigger.tg_relation).rd_id };
        if !self.plans.get(&oid).is_some_and(|plan| plan.valid.get()) {
            // SAFETY: as the caller promises.
            unsafe { self.build(oid, trigger) };
        }
        &self.plans[&oid]
    }

    #[cold]
    unsafe fn build(&mut self, oid: pg_sys::Oid, trigger: &pg_sys::TriggerData) {
        listen();
        let valid = Rc::new(Cell::new(true));
        // Registered before the catalog is read: a change in between makes this plan invalid at once.
        VALIDITY.with_borrow_mut(|validity| validity.insert(oid, Rc::clone(&valid)));
        self.next_id += 1;
        // SAFETY: as the caller promises.
        let plan = unsafe { build_plan(self.next_id, valid, trigger) };
        self.plans.insert(oid, Box::new(plan));
    }
}

/// Registers for invalidations, once per backend (PostgreSQL cannot unregister).
fn listen() {
    if !LISTENING.replace(true) {
        // SAFETY: both callbacks live as long as the library, which is never unloaded.
        unsafe {
            pg_sys::CacheRegisterRelcacheCallback(Some(relation_changed), pg_sys::Datum::from(0));
            // The schema's name is part of the plan, and renaming it does not touch its tables.
            pg_sys::CacheRegisterSyscacheCallback(
                pg_sys::SysCacheIdentifier::NAMESPACEOID as i32,
                Some(schema_changed),
                pg_sys::Datum::from(0),
            );
        }
    }
}

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn relation_changed(_arg: pg_sys::Datum, relid: pg_sys::Oid) {
    VALIDITY.with_borrow(|validity| {
        if relid == pg_sys::InvalidOid {
            validity.values().for_each(|valid| valid.set(false));
        } else if let Some(valid) = validity.get(&relid) {
            valid.set(false);
        }
    });
}

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn schema_changed(_arg: pg_sys::Datum, _cache: i32, _hash: u32) {
    VALIDITY.with_borrow(|validity| validity.values().for_each(|valid| valid.set(false)));
}

/// What a trigger's arguments say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Options {
    pub topic: String,
    pub key: Vec<String>,
    /// `<source id>/<database oid>` of the `cdc_track` that made the trigger.
    pub source: String,
}

impl Options {
    pub fn parse<'a>(arguments: impl Iterator<Item = &'a str>) -> Options {
        let mut options = Options::default();
        for argument in arguments {
            match argument.split_once('=') {
                Some(("topic", topic)) => options.topic = topic.to_owned(),
                Some(("key", key)) => options.key = split_names(key),
                Some(("source", source)) => options.source = source.to_owned(),
                _ => {}
            }
        }
        options
    }

    /// The arguments of the trigger, in the order in which `\d` shows them.
    pub fn arguments(&self) -> Vec<String> {
        let mut arguments = vec![format!("topic={}", self.topic)];
        if !self.key.is_empty() {
            arguments.push(format!("key={}", join_names(&self.key)));
        }
        arguments.push(format!("source={}", self.source));
        arguments
    }
}

/// Joins column names with commas; a backslash goes before a comma or backslash that is part of a name.
fn join_names(names: &[String]) -> String {
    let escaped: Vec<String> = names
        .iter()
        .map(|name| name.replace('\\', "\\\\").replace(',', "\\,"))
        .collect();
    escaped.join(",")
}

fn split_names(text: &str) -> Vec<String> {
    let mut names = vec![String::new()];
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        match character {
            ',' => names.push(String::new()),
            '\\' => names
                .last_mut()
                .into_iter()
                .for_each(|name| name.extend(characters.next())),
            _ => names
                .last_mut()
                .into_iter()
                .for_each(|name| name.push(character)),
        }
    }
    names.retain(|name| !name.is_empty());
    names
}

/// The source and database that a trigger made here and now belongs to.
pub fn place() -> String {
    let source_id = shared::shared()
        .map(|shared| shared.described().source_id)
        .unwrap_or_default();
    // SAFETY: set for the life of a backend.
    let database = unsafe { pg_sys::MyDatabaseId };
    format!("{source_id}/{}", database.to_u32())
}

unsafe fn build_plan(id: u64, valid: Rc<Cell<bool>>, trigger: &pg_sys::TriggerData) -> Plan {
    // SAFETY: relation, descriptor and trigger belong to the running trigger and stay open.
    unsafe {
        let relation = trigger.tg_relation;
        let descriptor = (*relation).rd_att;
        let definition = &*trigger.tg_trigger;
        let arguments: Vec<String> = (0..definition.tgnargs as usize)
            .map(|index| utf8(CStr::from_ptr(*definition.tgargs.add(index)).to_bytes()))
            .collect();
        let options = Options::parse(arguments.iter().map(String::as_str));

        let attributes = (*descriptor).natts as usize;
        let mut columns = Vec::new();
        let mut names = Vec::new();
        let mut hash = blake3::Hasher::new();
        for attribute in 0..attributes {
            let form = tuple_attribute(descriptor, attribute);
            if form.attisdropped || is_virtual(form) {
                continue;
            }
            let name = utf8(CStr::from_ptr(form.attname.data.as_ptr()).to_bytes());
            let (kind, encode) = encoding_of(form);
            hash.update(&(name.len() as u32).to_le_bytes());
            hash.update(name.as_bytes());
            hash.update(&form.atttypid.to_u32().to_le_bytes());
            hash.update(&form.atttypmod.to_le_bytes());
            names.push((name, kind));
            columns.push(PlanColumn { attribute, encode });
        }
        let digest = hash.finalize();
        let mut schema_hash = [0; 4];
        schema_hash.copy_from_slice(&digest.as_bytes()[..4]);

        let column_of = |attribute: usize| {
            columns
                .iter()
                .position(|column: &PlanColumn| column.attribute == attribute)
        };
        let identity = identity_attributes(relation);
        let identity_columns: Vec<usize> = identity
            .iter()
            .filter_map(|attribute| column_of(*attribute))
            .collect();
        let key: Vec<usize> = if options.key.is_empty() {
            identity_columns.clone()
        } else {
            options
                .key
                .iter()
                .filter_map(|wanted| names.iter().position(|(name, _)| name == wanted))
                .collect()
        };
        let same: bool = key.len() == identity_columns.len()
            && key.iter().all(|column| identity_columns.contains(column));
        let other_identity =
            (!same && !identity_columns.is_empty()).then_some(identity_columns.as_slice());
        let mut key_columns = key.clone();
        key_columns.extend(
            other_identity
                .unwrap_or_default()
                .iter()
                .filter(|column| !key.contains(column)),
        );

        let (schema, table) = qualified_name(root_of((*relation).rd_id));
        let mut blob = Vec::new();
        put_relation(
            &mut blob,
            (*relation).rd_id.to_u32(),
            u32::from_be_bytes(schema_hash),
            [&schema, &table, &options.topic],
            &names,
            &key,
            other_identity,
            same && !key.is_empty(),
        );

        let silent = options.source != place();
        if silent {
            copied_table(&table).warn();
        }
        Plan {
            id,
            blob,
            columns,
            key_columns,
            attributes,
            silent,
            valid,
        }
    }
}

/// CDC0107: the trigger was made in another database or on another server.
fn copied_table(table: &str) -> Report {
    Report::new(
        "CDC0107",
        PgSqlErrorCode::ERRCODE_WARNING,
        format!("table \"{table}\" is a copy and not captured"),
        format!("To capture it here, call cdc_track('{table}') again."),
    )
    .detail("Its trigger was made in another database or on another server: by CREATE DATABASE … TEMPLATE, or by restoring a dump.")
}

/// The attribute of a descriptor.
///
/// # Safety
/// `attribute` is below the descriptor's `natts`.
pub unsafe fn tuple_attribute<'a>(
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

/// Virtual generated columns (18) are computed when read: the tuple holds nothing of them.
fn is_virtual(form: &pg_sys::FormData_pg_attribute) -> bool {
    form.attgenerated == b'v' as std::ffi::c_char
}

/// Attribute indexes of the primary key, else of the replica identity index; empty for none.
unsafe fn identity_attributes(relation: pg_sys::Relation) -> Vec<usize> {
    // SAFETY: the relation is open; the list and the index are released again before anything is returned.
    unsafe {
        let list = pg_sys::RelationGetIndexList(relation);
        pg_sys::list_free(list);
        let index_oid = if (*relation).rd_pkindex != pg_sys::InvalidOid {
            (*relation).rd_pkindex
        } else {
            (*relation).rd_replidindex
        };
        if index_oid == pg_sys::InvalidOid {
            return Vec::new();
        }
        let index = pg_sys::index_open(index_oid, pg_sys::AccessShareLock as pg_sys::LOCKMODE);
        let form = (*index).rd_index;
        let numbers = (*form).indkey.values.as_slice((*form).indnkeyatts as usize);
        let attributes = numbers
            .iter()
            .filter(|number| **number > 0)
            .map(|number| *number as usize - 1)
            .collect();
        pg_sys::index_close(index, pg_sys::AccessShareLock as pg_sys::LOCKMODE);
        attributes
    }
}

/// The root of a partition; the relation itself if it is none.
unsafe fn root_of(oid: pg_sys::Oid) -> pg_sys::Oid {
    // SAFETY: catalog look-ups inside the running transaction.
    unsafe {
        if pg_sys::get_rel_relispartition(oid) {
            ffi::partition_root(oid)
        } else {
            oid
        }
    }
}

/// Schema and name of a relation, in UTF-8.
pub fn qualified_name(oid: pg_sys::Oid) -> (String, String) {
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

/// Kind and encoder of a column, by its type (of a domain: its base type).
unsafe fn encoding_of(form: &pg_sys::FormData_pg_attribute) -> (Kind, Encode) {
    use pg_sys::BuiltinOid::*;
    // SAFETY: catalog look-ups inside the running transaction.
    let (base, typmod) = unsafe {
        let mut typmod = form.atttypmod;
        (
            pg_sys::getBaseTypeAndTypmod(form.atttypid, &mut typmod),
            typmod,
        )
    };
    // SAFETY: reads the encoding of the connected database.
    let encoding = unsafe { pg_sys::GetDatabaseEncoding() };
    let plain = encoding == pg_sys::pg_enc::PG_UTF8 as i32
        || encoding == pg_sys::pg_enc::PG_SQL_ASCII as i32;
    let text = || {
        if plain {
            Encode::Varlena
        } else {
            Encode::VarlenaText
        }
    };
    match pg_sys::BuiltinOid::try_from(base) {
        Ok(BOOLOID) => (Kind::Bool, Encode::ByValue(1)),
        Ok(INT2OID) => (Kind::Int2, Encode::ByValue(2)),
        Ok(INT4OID) => (Kind::Int4, Encode::ByValue(4)),
        Ok(INT8OID) => (Kind::Int8, Encode::ByValue(8)),
        Ok(OIDOID) => (Kind::Oid, Encode::ByValue(4)),
        Ok(FLOAT4OID) => (Kind::Float4, Encode::ByValue(4)),
        Ok(FLOAT8OID) => (Kind::Float8, Encode::ByValue(8)),
        Ok(DATEOID) => (Kind::Date, Encode::ByValue(4)),
        Ok(TIMEOID) => (Kind::Time, Encode::ByValue(8)),
        Ok(TIMETZOID) => (Kind::TimeTz, Encode::ByReference(12)),
        Ok(TIMESTAMPOID) => (Kind::Timestamp, Encode::ByValue(8)),
        Ok(TIMESTAMPTZOID) => (Kind::TimestampTz, Encode::ByValue(8)),
        Ok(INTERVALOID) => (Kind::Interval, Encode::ByReference(16)),
        Ok(UUIDOID) => (Kind::Uuid, Encode::ByReference(16)),
        Ok(TEXTOID | VARCHAROID | BPCHAROID | JSONOID) => (Kind::Text, text()),
        Ok(BYTEAOID) => (Kind::Bytea, Encode::Varlena),
        Ok(NUMERICOID) => (Kind::Numeric, Encode::Varlena),
        Ok(NAMEOID) if plain => (Kind::Text, Encode::Name),
        // SAFETY: as above.
        Ok(BITOID) if typmod == 1 => (Kind::Bit1, unsafe { output_of(form) }),
        // SAFETY: as above.
        _ => (Kind::Text, unsafe { output_of(form) }),
    }
}

/// Looks up a type's output function, once per plan.
unsafe fn output_of(form: &pg_sys::FormData_pg_attribute) -> Encode {
    // SAFETY: catalog look-ups; the function's own cache lives in TopMemoryContext, as long as this backend.
    unsafe {
        let mut function = pg_sys::InvalidOid;
        let mut is_varlena = false;
        pg_sys::getTypeOutputInfo(form.atttypid, &mut function, &mut is_varlena);
        let mut info = Box::new(pg_sys::FmgrInfo::default());
        pg_sys::fmgr_info_cxt(function, &mut *info, pg_sys::TopMemoryContext);
        Encode::Output {
            function: info,
            length: form.attlen,
            by_value: form.attbyval,
        }
    }
}
