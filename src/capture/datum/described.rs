//! How the values of a type are encoded, as the catalog describes it: found out once per plan.

use std::cell::RefCell;
use std::ffi::CStr;

use change::options::Mask;
use change::value::kind::{Kind, MOST_LEVELS};
use pgrx::pg_sys;

use super::encode::{ArrayEncode, Encode};
use super::mask;
use super::output::{MoneyToNumeric, Output};
use super::row_type::RowType;
use crate::catalog::{name_of, tuple_attribute};

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
            Encode::Money(Box::new(MoneyToNumeric::new())),
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
                let output = Box::new(Output::of(type_id));
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
        (kind, Encode::Output(Box::new(Output::of(type_id))))
    }
}

/// Kind and encoder of a column whose values are masked.
///
/// # Safety
/// As for [`encoding_of`].
pub(crate) unsafe fn masked_encoding_of(type_id: pg_sys::Oid, mask: Mask) -> (Kind, Encode) {
    // SAFETY: as the caller promises.
    let output = || unsafe { Output::of(type_id) };
    let encode = match mask {
        Mask::Redact => Encode::Redacted,
        Mask::Hash => Encode::Hashed(Box::new((output(), mask::Hasher::new()))),
        Mask::Truncate(characters) => Encode::Truncated(Box::new(output()), characters),
    };
    (Kind::Text, encode)
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
            output: Output::of(type_id),
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

fn is_named(function: pg_sys::Oid, name: &CStr) -> bool {
    // SAFETY: a catalog look-up inside the running transaction; null or a zero-ended text.
    unsafe {
        let found = pg_sys::get_func_name(function);
        !found.is_null() && CStr::from_ptr(found) == name
    }
}
