//! One value: how its type is encoded, found out once per plan and done for every row.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::{CStr, c_char, c_int};

use change::options::Mask;
use change::value::kind::{ARRAY_ITEMS, ARRAY_TEXT, Kind, MOST_LEVELS};
use change::wire::put_varint;
use pgrx::pg_sys;

use super::mask;
use crate::catalog::{name_of, tuple_attribute};
use crate::ffi;
use crate::reserve::reserve;
use crate::text::utf8;

/// How a datum becomes bytes.
pub(crate) enum Encode {
    /// Passed by value: its low bytes.
    ByValue(usize),
    /// Passed by reference, of fixed length.
    ByReference(usize),
    /// A varlena whose content is taken as it is.
    Varlena,
    /// The same, converted from the database's encoding.
    VarlenaText,
    /// The fixed name type.
    Name,
    /// As the type's output function writes it.
    Output(Box<Output>),
    /// An enum: its labels, as they were met. A renamed label makes the plan invalid.
    Enum {
        labels: RefCell<HashMap<pg_sys::Oid, Vec<u8>>>,
        output: Box<Output>,
    },
    /// money, by way of numeric: its text depends on a setting.
    Money(Box<pg_sys::FmgrInfo>),
    Array(Box<ArrayEncode>),
    /// Not at all: the image has NULL.
    Redacted,
    /// The digest of the text.
    Hashed(Box<(Output, mask::Hasher)>),
    /// So many characters of the text.
    Truncated(Box<Output>, u32),
    /// Indexes of the attributes that are not dropped, and how each is encoded.
    Composite(Vec<(usize, Encode)>),
}

/// A type's output function; length and passing are the type's (pg_type.typlen, typbyval).
pub(crate) struct Output {
    function: Box<pg_sys::FmgrInfo>,
    depends_on: DependsOn,
    length: i16,
    by_value: bool,
}

/// How the elements of an array are encoded.
pub(crate) struct ArrayEncode {
    element: Encode,
    element_type: pg_sys::Oid,
    length: i16,
    by_value: bool,
    align: c_char,
    /// For lower bounds that are not 1.
    output: Output,
}

/// Settings that change a type's text, and cost too much to be pinned for types that they do not change.
#[derive(Clone, Copy, Default)]
struct DependsOn {
    /// The text names objects of the database.
    search_path: bool,
    /// It has money in it.
    lc_monetary: bool,
}

/// What the types of one table may take, and what they are made of.
pub(crate) struct Describing {
    /// The relations of composite types that were met: when one changes, the answer does.
    pub row_types: Vec<pg_sys::Oid>,
    /// Levels that may still follow.
    levels: u32,
    /// Attributes that may still be described. Types that hold each other twice on each level would make 2^32 of them.
    attributes: usize,
}

/// Of all types of a table together.
const MOST_ATTRIBUTES: usize = 20_000;

impl Default for Describing {
    fn default() -> Self {
        Describing {
            row_types: Vec::new(),
            levels: MOST_LEVELS,
            attributes: MOST_ATTRIBUTES,
        }
    }
}

impl Describing {
    /// Runs `body` one level deeper; none where that is too deep.
    fn below<R>(&mut self, body: impl FnOnce(&mut Describing) -> R) -> Option<R> {
        self.levels = self.levels.checked_sub(1)?;
        let described = body(self);
        self.levels += 1;
        Some(described)
    }
}

/// Kind and encoder of a type (of a domain: its base type). What lies too deep, or in too many attributes, is the text of
/// the type that it lies in.
///
/// # Safety
/// In a transaction; the type exists.
pub(crate) unsafe fn encoding_of(
    type_id: pg_sys::Oid,
    typmod: i32,
    describing: &mut Describing,
) -> (Kind, Encode) {
    use pg_sys::BuiltinOid::*;
    // SAFETY: catalog look-ups inside the running transaction.
    let (base, typmod) = unsafe {
        let mut typmod = typmod;
        (pg_sys::getBaseTypeAndTypmod(type_id, &mut typmod), typmod)
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
        Ok(MONEYOID) => (
            Kind::Numeric,
            Encode::Money(function(pg_sys::Oid::from(pg_sys::F_NUMERIC_MONEY))),
        ),
        // SAFETY: as the caller promises.
        _ => unsafe { other_encoding_of(base, typmod, describing) },
    }
}

/// The types that the catalog describes.
unsafe fn other_encoding_of(
    type_id: pg_sys::Oid,
    typmod: i32,
    describing: &mut Describing,
) -> (Kind, Encode) {
    // SAFETY: catalog look-ups inside the running transaction.
    unsafe {
        let mut output = pg_sys::InvalidOid;
        let mut is_varlena = false;
        pg_sys::getTypeOutputInfo(type_id, &mut output, &mut is_varlena);
        match output.to_u32() {
            pg_sys::F_ARRAY_OUT => {
                let array = describing.below(|below| array_of(type_id, typmod, below));
                if let Some(described) = array {
                    return described;
                }
            }
            pg_sys::F_RECORD_OUT => {
                let relation = pg_sys::get_typ_typrelid(type_id);
                if relation != pg_sys::InvalidOid {
                    describing.row_types.push(relation);
                    let composite = describing.below(|below| composite_of(type_id, below));
                    if let Some(described) = composite.flatten() {
                        return described;
                    }
                }
            }
            pg_sys::F_ENUM_OUT => {
                let labels = RefCell::default();
                let output = Box::new(output_of(type_id));
                return (Kind::Text, Encode::Enum { labels, output });
            }
            _ => {}
        }
        let kind = if type_id.to_u32() == pg_sys::BITOID.to_u32() && typmod == 1 {
            Kind::Bit1
        } else if is_named(output, c"hstore_out") {
            Kind::Hstore
        } else {
            Kind::Text
        };
        (kind, Encode::Output(Box::new(output_of(type_id))))
    }
}

/// Kind and encoder of a column whose values are masked.
///
/// # Safety
/// As for [`encoding_of`].
pub(crate) unsafe fn masked_encoding_of(type_id: pg_sys::Oid, mask: Mask) -> (Kind, Encode) {
    // SAFETY: as the caller promises.
    let output = || unsafe { output_of(type_id) };
    let encode = match mask {
        Mask::Redact => Encode::Redacted,
        Mask::Hash => Encode::Hashed(Box::new((output(), mask::Hasher::new()))),
        Mask::Truncate(characters) => Encode::Truncated(Box::new(output()), characters),
    };
    (Kind::Text, encode)
}

unsafe fn output_of(type_id: pg_sys::Oid) -> Output {
    // SAFETY: catalog look-ups inside the running transaction.
    unsafe {
        let (mut output, mut is_varlena) = (pg_sys::InvalidOid, false);
        pg_sys::getTypeOutputInfo(type_id, &mut output, &mut is_varlena);
        let (mut length, mut by_value) = (0, false);
        pg_sys::get_typlenbyval(type_id, &mut length, &mut by_value);
        let function = function(output);
        Output {
            depends_on: depends_on(type_id, &function, MOST_LEVELS),
            function,
            length,
            by_value,
        }
    }
}

unsafe fn array_of(
    type_id: pg_sys::Oid,
    typmod: i32,
    describing: &mut Describing,
) -> (Kind, Encode) {
    // SAFETY: catalog look-ups inside the running transaction; a type with array_out has an element type.
    unsafe {
        let element_type = pg_sys::get_element_type(type_id);
        let (mut length, mut by_value, mut align) = (0, false, 0);
        pg_sys::get_typlenbyvalalign(element_type, &mut length, &mut by_value, &mut align);
        let (kind, element) = encoding_of(element_type, typmod, describing);
        let array = ArrayEncode {
            element,
            element_type,
            length,
            by_value,
            align,
            output: output_of(type_id),
        };
        (Kind::Array(Box::new(kind)), Encode::Array(Box::new(array)))
    }
}

/// None where there are too many attributes.
unsafe fn composite_of(
    type_id: pg_sys::Oid,
    describing: &mut Describing,
) -> Option<(Kind, Encode)> {
    // SAFETY: the descriptor is held while it is read.
    unsafe {
        pg_sys::check_stack_depth();
        let descriptor = RowType::look_up(type_id, -1);
        let count = (*descriptor.0).natts as usize;
        describing.attributes = describing.attributes.checked_sub(count)?;
        let mut kinds = Vec::new();
        let mut attributes = Vec::new();
        for attribute in 0..count {
            let form = tuple_attribute(descriptor.0, attribute);
            if !form.attisdropped {
                let (kind, encode) = encoding_of(form.atttypid, form.atttypmod, describing);
                kinds.push((name_of(form), kind));
                attributes.push((attribute, encode));
            }
        }
        Some((Kind::Composite(kinds), Encode::Composite(attributes)))
    }
}

/// The descriptor of a composite type, released when dropped.
struct RowType(pg_sys::TupleDesc);

impl RowType {
    unsafe fn look_up(type_id: pg_sys::Oid, typmod: i32) -> RowType {
        // SAFETY: in a transaction; a type that is gone is an ERROR.
        RowType(unsafe { pg_sys::lookup_rowtype_tupdesc(type_id, typmod) })
    }
}

impl Drop for RowType {
    fn drop(&mut self) {
        // After an ERROR the transaction's resource owner has let it go.
        if !std::thread::panicking() {
            // SAFETY: counted by `look_up`, where it is counted at all (ReleaseTupleDesc in access/tupdesc.h).
            unsafe {
                if (*self.0).tdrefcount >= 0 {
                    pg_sys::DecrTupleDescRefCount(self.0);
                }
            }
        }
    }
}

/// What a type's text depends on, itself or by what lies in it.
unsafe fn depends_on(type_id: pg_sys::Oid, output: &pg_sys::FmgrInfo, levels: u32) -> DependsOn {
    let everything = DependsOn {
        search_path: true,
        lc_monetary: true,
    };
    // SAFETY: catalog look-ups inside the running transaction.
    unsafe {
        let Some(levels) = levels.checked_sub(1) else {
            return everything;
        };
        let within = |inner: pg_sys::Oid| {
            let base = pg_sys::getBaseType(inner);
            let (mut output, mut is_varlena) = (pg_sys::InvalidOid, false);
            pg_sys::getTypeOutputInfo(base, &mut output, &mut is_varlena);
            depends_on(base, &function(output), levels)
        };
        match output.fn_oid.to_u32() {
            pg_sys::F_ARRAY_OUT => within(pg_sys::get_element_type(type_id)),
            pg_sys::F_RANGE_OUT => within(pg_sys::get_range_subtype(type_id)),
            pg_sys::F_MULTIRANGE_OUT => within(pg_sys::get_multirange_range(type_id)),
            pg_sys::F_RECORD_OUT => everything,
            // A type of somebody's own may have the same C function under another oid.
            _ => DependsOn {
                search_path: NAMING.iter().any(|naming| is_same(*naming, output)),
                lc_monetary: is_same(pg_sys::F_CASH_OUT, output),
            },
        }
    }
}

fn is_same(builtin: u32, other: &pg_sys::FmgrInfo) -> bool {
    let address = |info: &pg_sys::FmgrInfo| info.fn_addr.map(|address| address as usize);
    address(&function(pg_sys::Oid::from(builtin))) == address(other)
}

/// Runs `body` with money as the server's own configuration has it, whatever the session has set: how many of its digits
/// are behind the point depends on that.
unsafe fn with_money_of_the_server<R>(body: impl FnOnce() -> R) -> R {
    const NAME: &CStr = c"lc_monetary";
    // SAFETY: inside a transaction, which restores the setting if `body` ends in an ERROR; both texts are zero-ended, and
    // PostgreSQL copies the one that it is given.
    unsafe {
        let configured = pg_sys::GetConfigOptionResetString(NAME.as_ptr());
        if configured.is_null()
            || ffi::locale_monetary.is_null()
            || CStr::from_ptr(configured) == CStr::from_ptr(ffi::locale_monetary)
        {
            return body();
        }
        let level = pg_sys::NewGUCNestLevel();
        pg_sys::set_config_option(
            NAME.as_ptr(),
            configured,
            pg_sys::GucContext::PGC_USERSET,
            pg_sys::GucSource::PGC_S_SESSION,
            pg_sys::GucAction::GUC_ACTION_SAVE,
            true,
            0,
            false,
        );
        let result = body();
        pg_sys::AtEOXact_GUC(true, level);
        result
    }
}

/// Output functions that name objects: qualified only where search_path does not find them.
const NAMING: [u32; 11] = [
    pg_sys::F_REGCLASSOUT,
    pg_sys::F_REGCOLLATIONOUT,
    pg_sys::F_REGCONFIGOUT,
    pg_sys::F_REGDICTIONARYOUT,
    pg_sys::F_REGNAMESPACEOUT,
    pg_sys::F_REGOPEROUT,
    pg_sys::F_REGOPERATOROUT,
    pg_sys::F_REGPROCOUT,
    pg_sys::F_REGPROCEDUREOUT,
    pg_sys::F_REGROLEOUT,
    pg_sys::F_REGTYPEOUT,
];

fn is_named(function: pg_sys::Oid, name: &CStr) -> bool {
    // SAFETY: a catalog look-up inside the running transaction; null or a zero-ended text.
    unsafe {
        let found = pg_sys::get_func_name(function);
        !found.is_null() && CStr::from_ptr(found) == name
    }
}

/// Looks up a function, once per plan.
fn function(oid: pg_sys::Oid) -> Box<pg_sys::FmgrInfo> {
    let mut info = Box::new(pg_sys::FmgrInfo::default());
    // SAFETY: a catalog look-up; the function's own cache lives in TopMemoryContext, as long as this backend.
    unsafe { pg_sys::fmgr_info_cxt(oid, &mut *info, pg_sys::TopMemoryContext) };
    info
}

/// Whether two datums of a column have the same bytes. Unchanged TOAST pointers are equal, and so are never fetched
/// for the new image.
#[inline]
pub(crate) unsafe fn same_bytes(encode: &Encode, old: pg_sys::Datum, new: pg_sys::Datum) -> bool {
    // SAFETY: both are non-NULL datums of the column's type.
    unsafe {
        match encode {
            Encode::Redacted => true,
            Encode::ByValue(_) | Encode::Enum { .. } | Encode::Money(_) => old == new,
            Encode::ByReference(len) => bytes_at(old, *len) == bytes_at(new, *len),
            Encode::Name => {
                CStr::from_ptr(old.cast_mut_ptr()) == CStr::from_ptr(new.cast_mut_ptr())
            }
            Encode::Varlena | Encode::VarlenaText | Encode::Array(_) | Encode::Composite(_) => {
                same_varlena(old, new)
            }
            Encode::Output(output) | Encode::Truncated(output, _) => same_as(output, old, new),
            Encode::Hashed(hashed) => same_as(&hashed.0, old, new),
        }
    }
}

unsafe fn same_as(output: &Output, old: pg_sys::Datum, new: pg_sys::Datum) -> bool {
    // SAFETY: both are non-NULL datums of the type.
    unsafe {
        match output.length {
            _ if output.by_value => old == new,
            -1 => same_varlena(old, new),
            length @ 1.. => bytes_at(old, length as usize) == bytes_at(new, length as usize),
            _ => false,
        }
    }
}

unsafe fn same_varlena(old: pg_sys::Datum, new: pg_sys::Datum) -> bool {
    // SAFETY: both point to varlenas, whose full length VARSIZE_ANY gives.
    unsafe {
        let (old, new): (*mut pg_sys::varlena, *mut pg_sys::varlena) =
            (old.cast_mut_ptr(), new.cast_mut_ptr());
        let len = pgrx::varsize_any(old);
        len == pgrx::varsize_any(new)
            && std::slice::from_raw_parts(old.cast::<u8>(), len)
                == std::slice::from_raw_parts(new.cast::<u8>(), len)
    }
}

unsafe fn bytes_at<'a>(datum: pg_sys::Datum, len: usize) -> &'a [u8] {
    // SAFETY: the caller passes a by-reference datum of `len` bytes.
    unsafe { std::slice::from_raw_parts(datum.cast_mut_ptr(), len) }
}

/// Appends one value.
///
/// # Safety
/// `datum` is a non-NULL value of the column's type.
#[inline]
pub(crate) unsafe fn put_datum(out: &mut Vec<u8>, encode: &Encode, datum: pg_sys::Datum) {
    // SAFETY: as the caller promises.
    unsafe {
        match encode {
            Encode::ByValue(len) => {
                reserve(out, 8);
                out.extend_from_slice(&(datum.value() as u64).to_le_bytes()[..*len]);
            }
            Encode::ByReference(len) => {
                reserve(out, *len);
                out.extend_from_slice(bytes_at(datum, *len));
            }
            Encode::Varlena => put_varlena(out, datum, false),
            Encode::VarlenaText => put_varlena(out, datum, true),
            Encode::Name => put_counted(out, CStr::from_ptr(datum.cast_mut_ptr()).to_bytes()),
            Encode::Output(output) => with_output(output, datum, |text| put_counted(out, text)),
            // Images have NULL for it.
            Encode::Redacted => {}
            Encode::Hashed(hashed) => with_output(&hashed.0, datum, |text| {
                put_counted(out, &hashed.1.hash(text))
            }),
            Encode::Truncated(output, characters) => with_output(output, datum, |text| {
                put_counted(out, mask::truncate(text, *characters));
            }),
            Encode::Enum { labels, output } => put_enum(out, labels, output, datum),
            Encode::Money(to_numeric) => {
                let numeric = with_money_of_the_server(|| {
                    pg_sys::FunctionCall1Coll(as_mut(to_numeric), pg_sys::InvalidOid, datum)
                });
                put_varlena(out, numeric, false);
            }
            Encode::Array(array) => put_array(out, array, datum),
            Encode::Composite(attributes) => put_composite(out, attributes, datum),
        }
    }
}

#[inline]
unsafe fn put_varlena(out: &mut Vec<u8>, datum: pg_sys::Datum, convert: bool) {
    // SAFETY: the datum points to a varlena.
    unsafe {
        with_varlena(datum, |bytes| {
            if convert {
                put_counted(out, utf8(bytes).as_bytes());
            } else {
                put_counted(out, bytes);
            }
        });
    }
}

/// Gives `take` the content of a varlena, fetched and decompressed where need be.
#[inline]
unsafe fn with_varlena<R>(datum: pg_sys::Datum, take: impl FnOnce(&[u8]) -> R) -> R {
    // SAFETY: the datum points to a varlena. A copy that was fetched is this function's own, and freed.
    unsafe {
        let given: *mut pg_sys::varlena = datum.cast_mut_ptr();
        let header = *given.cast::<u8>();
        // Plain 4-byte header (low bits 00) or plain short header (low bit 1, not the external tag 1).
        let plain = header & 0x03 == 0 || (header & 0x01 == 1 && header != 0x01);
        let varlena = if plain {
            given
        } else {
            pg_sys::pg_detoast_datum_packed(given)
        };
        let len = pgrx::varsize_any_exhdr(varlena);
        let bytes = std::slice::from_raw_parts(pgrx::vardata_any(varlena).cast::<u8>(), len);
        let taken = take(bytes);
        // The next row would find it freed anyhow; a row of large values must not hold them all.
        if varlena != given && len > FREED_AT_ONCE_BYTES {
            pg_sys::pfree(varlena.cast());
        }
        taken
    }
}

/// Fetched copies above this do not wait for the end of the row.
const FREED_AT_ONCE_BYTES: usize = 1024 * 1024;

/// A value that is taken as it is, and longer than a limit: told before it is fetched.
pub(crate) struct LargeVarlena(pg_sys::Datum);

impl LargeVarlena {
    /// Gives `take` the value.
    ///
    /// # Safety
    /// The row that it came from is still there.
    pub(crate) unsafe fn with_bytes<R>(&self, take: impl FnOnce(&[u8]) -> R) -> R {
        // SAFETY: as the caller promises.
        unsafe { with_varlena(self.0, take) }
    }
}

/// The value, if it is one that is taken as it is and longer than `limit_bytes`.
///
/// # Safety
/// `datum` is a non-NULL value of the column's type.
#[inline]
pub(crate) unsafe fn large_varlena(
    encode: &Encode,
    datum: pg_sys::Datum,
    limit_bytes: usize,
) -> Option<LargeVarlena> {
    if !matches!(encode, Encode::Varlena) {
        return None;
    }
    // SAFETY: the datum points to a varlena; the size of a fetched one stands in its pointer.
    let bytes = unsafe {
        // A short header has a length of at most 126.
        let header = *datum.cast_mut_ptr::<u8>();
        if header & 0x01 == 1 && header != 0x01 {
            return None;
        }
        pg_sys::toast_raw_datum_size(datum) - pg_sys::VARHDRSZ
    };
    (bytes > limit_bytes).then_some(LargeVarlena(datum))
}

#[inline]
fn put_counted(out: &mut Vec<u8>, bytes: &[u8]) {
    reserve(out, bytes.len() + 10);
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// PostgreSQL itself writes through a function's information, on this thread.
fn as_mut(info: &pg_sys::FmgrInfo) -> *mut pg_sys::FmgrInfo {
    std::ptr::from_ref(info).cast_mut()
}

/// Gives `put` the text of a value, in UTF-8.
unsafe fn with_output(output: &Output, datum: pg_sys::Datum, put: impl FnOnce(&[u8])) {
    // SAFETY: the function is the output function of the datum's type; what it returns lies in per-tuple memory.
    unsafe {
        let _pinned = PinnedStyle::set();
        let call = || pg_sys::OutputFunctionCall(as_mut(&output.function), datum);
        let text = match output.depends_on {
            DependsOn {
                search_path: false,
                lc_monetary: false,
            } => call(),
            DependsOn {
                search_path: false,
                lc_monetary: true,
            } => with_money_of_the_server(call),
            DependsOn {
                search_path: true, ..
            } => ffi::with_pinned_search_path(|| with_money_of_the_server(call)),
        };
        let bytes = CStr::from_ptr(text).to_bytes();
        if pg_sys::GetDatabaseEncoding() == pg_sys::pg_enc::PG_UTF8 as i32 {
            put(bytes);
        } else {
            put(utf8(bytes).as_bytes());
        }
    }
}

unsafe fn put_enum(
    out: &mut Vec<u8>,
    labels: &RefCell<HashMap<pg_sys::Oid, Vec<u8>>>,
    output: &Output,
    datum: pg_sys::Datum,
) {
    let value = pg_sys::Oid::from(datum.value() as u32);
    if let Some(label) = labels.borrow().get(&value) {
        return put_counted(out, label);
    }
    // SAFETY: the output function of the datum's type.
    unsafe {
        with_output(output, datum, |label| {
            labels.borrow_mut().insert(value, label.to_vec());
            put_counted(out, label);
        });
    }
}

/// Begins a value whose length is known only at its end.
fn begin_counted(out: &mut Vec<u8>) -> usize {
    reserve(out, PADDED_LENGTH_BYTES);
    let start = out.len();
    out.extend_from_slice(&[0; PADDED_LENGTH_BYTES]);
    start
}

/// A variable-length integer of always this many bytes: enough for the 1 GB that a value may have.
const PADDED_LENGTH_BYTES: usize = 5;

fn end_counted(out: &mut [u8], start: usize) {
    let mut len = out.len() - start - PADDED_LENGTH_BYTES;
    for (place, byte) in out[start..start + PADDED_LENGTH_BYTES]
        .iter_mut()
        .enumerate()
    {
        let more = if place + 1 < PADDED_LENGTH_BYTES {
            0x80
        } else {
            0
        };
        *byte = (len & 0x7f) as u8 | more;
        len >>= 7;
    }
}

/// Appends the NULL bitmap of `nulls`.
fn put_nulls(out: &mut Vec<u8>, count: usize, is_null: impl Fn(usize) -> bool) {
    let bytes = count.div_ceil(8);
    reserve(out, bytes);
    let start = out.len();
    out.resize(start + bytes, 0);
    for index in (0..count).filter(|index| is_null(*index)) {
        out[start + index / 8] |= 1 << (index % 8);
    }
}

unsafe fn put_array(out: &mut Vec<u8>, encode: &ArrayEncode, datum: pg_sys::Datum) {
    // SAFETY: the datum is an array of the element type; dimensions and lower bounds follow its header (utils/array.h),
    // and what is taken apart lies in the trigger's per-tuple memory.
    unsafe {
        let array: *mut pg_sys::ArrayType = pg_sys::pg_detoast_datum(datum.cast_mut_ptr()).cast();
        let dimensions = (*array).ndim as usize;
        let bounds: *const c_int = array.add(1).cast();
        let lengths = std::slice::from_raw_parts(bounds, dimensions);
        let lower_bounds = std::slice::from_raw_parts(bounds.add(dimensions), dimensions);
        let start = begin_counted(out);
        if lower_bounds.iter().any(|bound| *bound != 1) {
            reserve(out, 1);
            out.push(ARRAY_TEXT);
            with_output(&encode.output, pg_sys::Datum::from(array), |text| {
                reserve(out, text.len());
                out.extend_from_slice(text);
            });
            return end_counted(out, start);
        }
        reserve(out, 2 + PADDED_LENGTH_BYTES * dimensions);
        out.extend_from_slice(&[ARRAY_ITEMS, dimensions as u8]);
        lengths
            .iter()
            .for_each(|length| put_varint(out, *length as u64));
        let (mut items, mut nulls, mut count) = (std::ptr::null_mut(), std::ptr::null_mut(), 0);
        pg_sys::deconstruct_array(
            array,
            encode.element_type,
            encode.length.into(),
            encode.by_value,
            encode.align,
            &mut items,
            &mut nulls,
            &mut count,
        );
        let count = count as usize;
        if count > 0 {
            let items = std::slice::from_raw_parts(items, count);
            let nulls = std::slice::from_raw_parts(nulls, count);
            put_nulls(out, count, |index| nulls[index]);
            for (item, _) in items.iter().zip(nulls).filter(|(_, null)| !**null) {
                put_datum(out, &encode.element, *item);
            }
        }
        end_counted(out, start);
    }
}

unsafe fn put_composite(out: &mut Vec<u8>, attributes: &[(usize, Encode)], datum: pg_sys::Datum) {
    // SAFETY: the datum is a row of a composite type, whose header names the type; its values and NULL flags get room
    // for every attribute of the descriptor, in the trigger's per-tuple memory.
    unsafe {
        let header: pg_sys::HeapTupleHeader = pg_sys::pg_detoast_datum(datum.cast_mut_ptr()).cast();
        let fields = &(*header).t_choice.t_datum;
        let descriptor = RowType::look_up(fields.datum_typeid, fields.datum_typmod);
        let mut tuple = pg_sys::HeapTupleData {
            t_len: pgrx::varsize_any(header.cast()) as u32,
            t_data: header,
            ..Default::default()
        };
        let room = (*descriptor.0).natts as usize;
        let values: *mut pg_sys::Datum =
            pg_sys::palloc(room.max(1) * size_of::<pg_sys::Datum>()).cast();
        let nulls: *mut bool = pg_sys::palloc(room.max(1)).cast();
        pg_sys::heap_deform_tuple(&mut tuple, descriptor.0, values, nulls);
        // An attribute that the plan has and the descriptor has not: the type changed a moment ago.
        let is_null = |attribute: usize| attribute >= room || *nulls.add(attribute);
        let start = begin_counted(out);
        put_nulls(out, attributes.len(), |index| is_null(attributes[index].0));
        for (attribute, encode) in attributes
            .iter()
            .filter(|(attribute, _)| !is_null(*attribute))
        {
            put_datum(out, encode, *values.add(*attribute));
        }
        end_counted(out, start);
    }
}

/// Pins the settings that output functions depend on, so that text means the same whoever writes; restores them on
/// every way out, errors included.
pub(crate) struct PinnedStyle {
    date_style: c_int,
    date_order: c_int,
    interval_style: c_int,
    extra_float_digits: c_int,
    bytea_output: c_int,
    quote_all_identifiers: bool,
    time_zone: *mut pg_sys::pg_tz,
}

thread_local! {
    /// The time zone, looked up once: PostgreSQL keeps it as long as the process lives.
    static UTC: std::cell::LazyCell<*mut pg_sys::pg_tz> = std::cell::LazyCell::new(|| {
        // SAFETY: on the backend's only thread; null where there is no such zone.
        unsafe { pg_sys::pg_tzset(c"UTC".as_ptr()) }
    });
}

impl PinnedStyle {
    /// # Safety
    /// On the main thread of a backend, inside a transaction.
    pub(crate) unsafe fn set() -> PinnedStyle {
        // SAFETY: these variables belong to this backend's only thread; the zone is looked up before anything is set.
        unsafe {
            let utc = UTC.with(|utc| **utc);
            let before = PinnedStyle {
                date_style: pg_sys::DateStyle,
                date_order: pg_sys::DateOrder,
                interval_style: pg_sys::IntervalStyle,
                extra_float_digits: pg_sys::extra_float_digits,
                bytea_output: ffi::bytea_output,
                quote_all_identifiers: pg_sys::quote_all_identifiers,
                time_zone: pg_sys::session_timezone,
            };
            pg_sys::DateStyle = pg_sys::USE_ISO_DATES as c_int;
            pg_sys::DateOrder = pg_sys::DATEORDER_YMD as c_int;
            pg_sys::IntervalStyle = pg_sys::INTSTYLE_POSTGRES as c_int;
            pg_sys::extra_float_digits = 1;
            ffi::bytea_output = 1;
            pg_sys::quote_all_identifiers = false;
            if !utc.is_null() {
                pg_sys::session_timezone = utc;
            }
            before
        }
    }
}

impl Drop for PinnedStyle {
    fn drop(&mut self) {
        // SAFETY: as in `set`.
        unsafe {
            pg_sys::DateStyle = self.date_style;
            pg_sys::DateOrder = self.date_order;
            pg_sys::IntervalStyle = self.interval_style;
            pg_sys::extra_float_digits = self.extra_float_digits;
            ffi::bytea_output = self.bytea_output;
            pg_sys::quote_all_identifiers = self.quote_all_identifiers;
            pg_sys::session_timezone = self.time_zone;
        }
    }
}
