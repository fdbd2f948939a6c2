//! The order in which a snapshot reads a table: that of the index which identifies its rows. The sorting, the condition
//! that goes on behind a row and the check of what was read all take the operators of that index's own operator classes:
//! a type's `>` may be another one, or in another schema, or in another order (citext, ltree, a pattern class).

use std::ffi::CStr;

use pgrx::pg_sys;
use pgrx::spi::{quote_identifier, quote_literal, quote_qualified_identifier};

use crate::catalog::{name_of, tuple_attribute};
use crate::text::utf8;
use crate::tracked::table::Table;

/// One column of the index.
struct KeyColumn {
    name: String,
    /// The column as its operator class takes it: of that class's type, in the index's collation.
    expression: String,
    /// The type whose text a value is.
    literal_type: String,
    /// What stands behind a literal of that type, to make it comparable.
    literal_suffix: String,
    /// `OPERATOR(schema.name)`: comes before, is the same, comes after, in the index's direction.
    before: Operator,
    same: Operator,
    after: Operator,
    nulls_first: bool,
    descending: bool,
    collation: pg_sys::Oid,
    /// The operator class's comparing function.
    compare: Box<pg_sys::FmgrInfo>,
}

#[derive(Clone, PartialEq, Eq)]
struct Operator(String);

/// The columns of the index, in its order.
pub(crate) struct KeyOrder(Vec<KeyColumn>);

impl KeyOrder {
    /// The order of the primary key, else of the replica identity; none if there is no such B-tree.
    pub(crate) fn of(table: &Table) -> Option<KeyOrder> {
        // SAFETY: relation and index are open while they are read.
        let columns =
            table.with_identity_index(|relation, index| unsafe { columns_of(relation, index) });
        columns
            .flatten()
            .filter(|columns| !columns.is_empty())
            .map(KeyOrder)
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|column| column.name.as_str())
    }

    /// What stands behind ORDER BY.
    pub(crate) fn order_by(&self) -> String {
        let columns: Vec<String> = self
            .0
            .iter()
            .map(|column| {
                let nulls = if column.nulls_first { "FIRST" } else { "LAST" };
                format!(
                    "{} USING {} NULLS {nulls}",
                    column.expression, column.before.0
                )
            })
            .collect();
        columns.join(", ")
    }

    /// The condition that rows behind the one with these key values fulfil. Values are texts, in the order of the index.
    pub(crate) fn behind(&self, values: &[String]) -> String {
        let literals: Vec<String> = self
            .0
            .iter()
            .zip(values)
            .map(|(column, value)| {
                format!(
                    "{}::{}{}",
                    quote_literal(value),
                    column.literal_type,
                    column.literal_suffix
                )
            })
            .collect();
        let expressions = || self.0.iter().map(|column| column.expression.as_str());
        let first = &self.0[0];
        // One operator for all columns: a comparison of rows, which an index answers from the first row on.
        if self.0.iter().all(|column| column.after == first.after) {
            return if self.0.len() == 1 {
                format!("{} {} {}", first.expression, first.after.0, literals[0])
            } else {
                format!(
                    "ROW({}) {} ROW({})",
                    expressions().collect::<Vec<_>>().join(", "),
                    first.after.0,
                    literals.join(", ")
                )
            };
        }
        let mut alternatives = Vec::new();
        let mut equal = String::new();
        for (column, literal) in self.0.iter().zip(&literals) {
            let expression = &column.expression;
            alternatives.push(format!(
                "({equal}{expression} {} {literal})",
                column.after.0
            ));
            equal.push_str(&format!("{expression} {} {literal} AND ", column.same.0));
        }
        // The first line lets the index begin at the place.
        format!(
            "({0} {1} {3} OR {0} {2} {3}) AND ({4})",
            first.expression,
            first.after.0,
            first.same.0,
            literals[0],
            alternatives.join(" OR ")
        )
    }

    /// Whether a row comes behind another one. `columns` are the numbers of the key's columns in both rows, from 1.
    ///
    /// # Safety
    /// Both are rows of `descriptor`, and their key columns are of the index's types.
    pub(crate) unsafe fn is_behind(
        &self,
        before: pg_sys::HeapTuple,
        after: pg_sys::HeapTuple,
        descriptor: pg_sys::TupleDesc,
        columns: &[i32],
    ) -> bool {
        for (column, number) in self.0.iter().zip(columns) {
            // SAFETY: as the caller promises; a NULL is looked at before the value is taken.
            let order = unsafe {
                let (mut one_null, mut other_null) = (false, false);
                let one = pg_sys::SPI_getbinval(before, descriptor, *number, &mut one_null);
                let other = pg_sys::SPI_getbinval(after, descriptor, *number, &mut other_null);
                if one_null || other_null {
                    return false;
                }
                let compare = std::ptr::from_ref(&*column.compare).cast_mut();
                pg_sys::FunctionCall2Coll(compare, column.collation, one, other).value() as i32
            };
            match (order, column.descending) {
                (0, _) => {}
                (order, descending) => return (order < 0) != descending,
            }
        }
        false
    }
}

unsafe fn columns_of(
    relation: &pg_sys::RelationData,
    index: &pg_sys::RelationData,
) -> Option<Vec<KeyColumn>> {
    // SAFETY: both relations are open; the arrays of an index have as many entries as it has key columns.
    unsafe {
        if (*index.rd_rel).relam != pg_sys::BTREE_AM_OID {
            return None;
        }
        let form = &*index.rd_index;
        let count = form.indnkeyatts as usize;
        let numbers = form.indkey.values.as_slice(count);
        (0..count)
            .map(|place| {
                let attribute = usize::try_from(numbers[place]).ok()?.checked_sub(1)?;
                let column = tuple_attribute(relation.rd_att, attribute);
                column_of(index, place, column)
            })
            .collect()
    }
}

unsafe fn column_of(
    index: &pg_sys::RelationData,
    place: usize,
    form: &pg_sys::FormData_pg_attribute,
) -> Option<KeyColumn> {
    // SAFETY: as in `columns_of`; catalog look-ups inside the running transaction.
    unsafe {
        let family = *index.rd_opfamily.add(place);
        let class_type = *index.rd_opcintype.add(place);
        let option = *index.rd_indoption.add(place) as u32;
        let collation = *index.rd_indcollation.add(place);
        let descending = option & pg_sys::INDOPTION_DESC != 0;
        let operator = |strategy: u32| {
            let oid = pg_sys::get_opfamily_member(family, class_type, class_type, strategy as i16);
            operator_name(oid)
        };
        let less = operator(pg_sys::BTLessStrategyNumber)?;
        let greater = operator(pg_sys::BTGreaterStrategyNumber)?;
        let (before, after) = if descending {
            (greater, less)
        } else {
            (less, greater)
        };
        let mut typmod = form.atttypmod;
        let base = pg_sys::getBaseTypeAndTypmod(form.atttypid, &mut typmod);
        let type_name = |oid, typmod| {
            utf8(CStr::from_ptr(pg_sys::format_type_with_typemod(oid, typmod)).to_bytes())
        };
        // Of a polymorphic class (arrays, enums, ranges, rows) the operators take the type as it is.
        let compared = if is_pseudo_type(class_type) {
            base
        } else {
            class_type
        };
        let cast = |from: pg_sys::Oid| {
            if from == compared {
                String::new()
            } else {
                format!("::{}", type_name(compared, -1))
            }
        };
        let name = name_of(form);
        let mut expression = quote_identifier(&name);
        expression.push_str(&cast(form.atttypid));
        if collation != pg_sys::InvalidOid && collation != form.attcollation {
            expression = format!("{expression} COLLATE {}", collation_name(collation)?);
        }
        let mut compare = Box::new(pg_sys::FmgrInfo::default());
        let function = pg_sys::get_opfamily_proc(family, class_type, class_type, COMPARE);
        if function == pg_sys::InvalidOid {
            return None;
        }
        pg_sys::fmgr_info_cxt(function, &mut *compare, pg_sys::CurrentMemoryContext);
        Some(KeyColumn {
            expression: format!("({expression})"),
            literal_type: type_name(base, typmod),
            literal_suffix: cast(base),
            name,
            before,
            same: operator(pg_sys::BTEqualStrategyNumber)?,
            after,
            nulls_first: option & pg_sys::INDOPTION_NULLS_FIRST != 0,
            descending,
            collation,
            compare,
        })
    }
}

/// The number of a B-tree class's comparing function (BTORDER_PROC in access/nbtree.h).
const COMPARE: i16 = 1;

fn is_pseudo_type(oid: pg_sys::Oid) -> bool {
    // SAFETY: a catalog look-up inside the running transaction.
    unsafe { pg_sys::get_typtype(oid) as u8 == pg_sys::TYPTYPE_PSEUDO }
}

unsafe fn operator_name(oid: pg_sys::Oid) -> Option<Operator> {
    // SAFETY: a catalog look-up inside the running transaction; the row is read before it is released.
    unsafe {
        let row = pg_sys::SearchSysCache1(
            pg_sys::SysCacheIdentifier::OPEROID as i32,
            pg_sys::Datum::from(oid),
        );
        if row.is_null() {
            return None;
        }
        let form = &*pg_sys::GETSTRUCT(row).cast::<pg_sys::FormData_pg_operator>();
        let schema = namespace_name(form.oprnamespace);
        let name = utf8(CStr::from_ptr(form.oprname.data.as_ptr()).to_bytes());
        pg_sys::ReleaseSysCache(row);
        Some(Operator(format!(
            "OPERATOR({}.{name})",
            quote_identifier(schema?)
        )))
    }
}

unsafe fn collation_name(oid: pg_sys::Oid) -> Option<String> {
    // SAFETY: as in `operator_name`.
    unsafe {
        let row = pg_sys::SearchSysCache1(
            pg_sys::SysCacheIdentifier::COLLOID as i32,
            pg_sys::Datum::from(oid),
        );
        if row.is_null() {
            return None;
        }
        let form = &*pg_sys::GETSTRUCT(row).cast::<pg_sys::FormData_pg_collation>();
        let schema = namespace_name(form.collnamespace);
        let name = utf8(CStr::from_ptr(form.collname.data.as_ptr()).to_bytes());
        pg_sys::ReleaseSysCache(row);
        Some(quote_qualified_identifier(schema?, name))
    }
}

unsafe fn namespace_name(oid: pg_sys::Oid) -> Option<String> {
    // SAFETY: a catalog look-up inside the running transaction; null or a zero-ended text.
    unsafe {
        let name = pg_sys::get_namespace_name(oid);
        (!name.is_null()).then(|| utf8(CStr::from_ptr(name).to_bytes()))
    }
}
