//! The filter of a tracked table: a condition on one row, with built-in types, operators and immutable functions alone, for
//! it runs with every writer's rights. Follows what publications allow (commands/publicationcmds.c,
//! check_simple_rowfilter_expr), and looks at the text before PostgreSQL does: already a constant is made by its type's input
//! function, which for a type that holds a domain runs what the domain's owner wrote.

use crate::report::{Raise, code_of};
use std::ffi::{CStr, c_void};
use std::panic::AssertUnwindSafe;

use change::code::Code;
use change::trouble::Trouble;
use pgrx::PgTryBuilder;
use pgrx::pg_sys;
use pgrx::pg_sys::ffi::pg_guard_ffi_boundary;
use pgrx::pg_sys::panic::CaughtError;
use pgrx::prelude::*;

use super::row_expression::RowExpression;
use super::text::{FormerNames, lasting};
use crate::capture::datum::pinned_style::PinnedStyle;
use crate::catalog::{name_of, tuple_attribute};
use crate::ffi;
use crate::text::{server_text, utf8};
use crate::tracked::rights::as_superuser;

/// Prepares the condition `text` on rows of `relation`. CDC0111 for what is no allowed condition. Who writes a row need have
/// no rights on the schema of a type that the owner names in it.
///
/// # Safety
/// In a transaction; the relation is open and locked.
pub(crate) unsafe fn prepare(relation: pg_sys::Relation, text: &str) -> RowExpression {
    // SAFETY: as the caller promises.
    unsafe {
        RowExpression::new(relation, || {
            let _pinned = PinnedStyle::set();
            as_superuser(|| condition(relation, text))
        })
    }
}

/// Checks a filter before anything is tracked with it, with the caller's rights, and returns the text that means for
/// everybody and always what the caller's means now: a date is read as the session's settings say, and `now` passes.
///
/// # Safety
/// As for [`prepare`].
pub(crate) unsafe fn check(relation: pg_sys::Relation, text: &str) -> String {
    // SAFETY: as the caller promises. Caught only to be raised again under our code: the statement ends in any case.
    unsafe {
        let condition = || ffi::with_pinned_search_path(|| condition(relation, text));
        let checked = || {
            drop(RowExpression::new(relation, condition));
            lasting(relation, condition()).unwrap_or_else(|| text.to_owned())
        };
        PgTryBuilder::new(AssertUnwindSafe(checked))
            .catch_others(|error| match error {
                CaughtError::PostgresError(report) | CaughtError::ErrorReport(report) => {
                    if code_of(&report).is_some() {
                        CaughtError::ErrorReport(report).rethrow()
                    }
                    refused(&format!("PostgreSQL says: {}.", report.message())).raise()
                }
                panic => panic.rethrow(),
            })
            .execute()
    }
}

/// The expression tree of the condition, checked. Names mean what they mean in pg_catalog, whoever writes the row.
unsafe fn condition(relation: pg_sys::Relation, text: &str) -> *mut pg_sys::Node {
    // SAFETY: as for `expression`.
    unsafe {
        // With no bracket around it, what would close one is no condition.
        parsed(&server_text(&format!("SELECT {text}\n")));
        let expression = expression(relation, text, &FormerNames::NONE);
        if pg_sys::contain_mutable_functions(expression) {
            refused("It calls a function whose result depends on more than the row.").raise();
        }
        // What a walker raises goes as far as where PostgreSQL was called last.
        pg_guard_ffi_boundary(|| refuse_nodes(expression, std::ptr::null_mut()));
        // A virtual column is what it is computed from.
        #[cfg(feature = "pg18")]
        let expression = pg_sys::expand_generated_columns_in_expr(expression, relation, 1);
        expression
    }
}

/// The expression tree of a condition that may have been written with former names.
///
/// # Safety
/// As for [`prepare`], with the search_path pinned.
pub(crate) unsafe fn expression(
    relation: pg_sys::Relation,
    text: &str,
    former: &FormerNames<'_>,
) -> *mut pg_sys::Node {
    let statement = server_text(&format!("SELECT ({text}\n)"));
    // SAFETY: the parser's own calls, in the order in which PostgreSQL makes them for a publication's row filter; names are
    // put into lists that the range table entry has for itself.
    unsafe {
        let raw = parsed(&statement);
        refuse_text(raw, relation, former.columns);
        let state = pg_sys::make_parsestate(std::ptr::null_mut());
        (*state).p_sourcetext = statement.as_ptr();
        let item = pg_sys::addRangeTableEntryForRelation(
            state,
            relation,
            pg_sys::AccessShareLock as i32,
            std::ptr::null_mut(),
            false,
            false,
        );
        let names = (*item).p_names;
        if let Some(table) = former.table {
            (*names).aliasname = pg_sys::pstrdup(server_text(table).as_ptr());
        }
        for (number, old, _) in former.columns {
            let place = (*(*names).colnames).elements.add(*number as usize - 1);
            let name = pg_sys::pstrdup(server_text(old).as_ptr());
            (*place).ptr_value = pg_sys::makeString(name).cast();
        }
        pg_sys::addNSItemToQuery(state, item, false, true, true);
        // The kind refuses subqueries, aggregates, window and set-returning functions.
        let expression = pg_sys::transformExpr(
            state,
            raw,
            pg_sys::ParseExprKind::EXPR_KIND_CHECK_CONSTRAINT,
        );
        let expression = pg_sys::coerce_to_boolean(state, expression, c"filter".as_ptr());
        pg_sys::assign_expr_collations(state, expression);
        pg_sys::free_parsestate(state);
        expression
    }
}

/// The one expression of a statement `SELECT …`.
unsafe fn parsed(statement: &CStr) -> *mut pg_sys::Node {
    // SAFETY: the text is zero-ended, and names in the tree are copies.
    unsafe {
        only_expression(pg_sys::raw_parser(
            statement.as_ptr(),
            pg_sys::RawParseMode::RAW_PARSE_DEFAULT,
        ))
    }
}

/// Refuses what a text must not name, before PostgreSQL looks at it. Columns that have another name now are named in it by
/// their former ones.
///
/// # Safety
/// As for [`prepare`]; the tree is one that the grammar made.
unsafe fn refuse_text(
    raw: *mut pg_sys::Node,
    relation: pg_sys::Relation,
    former: &[(i16, String, String)],
) {
    let mut columns = FilterColumns { relation, former };
    // SAFETY: as the caller promises; the walker's context is what it takes it for.
    unsafe {
        // What a walker raises goes as far as where PostgreSQL was called last.
        pg_guard_ffi_boundary(|| refuse_names(raw, (&raw mut columns).cast()));
    }
}

/// The relation whose columns a filter may name.
struct FilterColumns<'a> {
    relation: pg_sys::Relation,
    /// Numbers, former and present names.
    former: &'a [(i16, String, String)],
}

impl FilterColumns<'_> {
    /// Whether a type is PostgreSQL's own, or what a column is made of.
    unsafe fn has(&self, type_id: pg_sys::Oid) -> bool {
        // SAFETY: the relation is open; catalog look-ups inside the running transaction.
        unsafe {
            let plain = |type_id| {
                let base = pg_sys::getBaseType(type_id);
                let element = pg_sys::get_element_type(base);
                if element == pg_sys::InvalidOid {
                    base
                } else {
                    element
                }
            };
            let named = plain(type_id);
            let descriptor = (*self.relation).rd_att;
            named.to_u32() < pg_sys::FirstNormalObjectId
                || (0..(*descriptor).natts as usize)
                    .map(|attribute| tuple_attribute(descriptor, attribute))
                    .any(|form| !form.attisdropped && plain(form.atttypid) == named)
        }
    }

    /// Refuses a name that is no column, and a column whose type is not allowed.
    unsafe fn refuse(&self, name: &str) {
        // SAFETY: the relation is open.
        unsafe {
            let descriptor = (*self.relation).rd_att;
            let found = (0..(*descriptor).natts as usize)
                .map(|attribute| tuple_attribute(descriptor, attribute))
                .find(|form| {
                    let former = self
                        .former
                        .iter()
                        .find(|(number, ..)| *number == form.attnum);
                    let known = former.map_or_else(|| name_of(form), |(_, old, _)| old.clone());
                    !form.attisdropped && known == name
                });
            match found {
                Some(form) if is_allowed_type(form.atttypid) => {}
                Some(_) => refused(&format!(
                    "Column \"{name}\" is of a type of its own, whose operators a filter does not use."
                ))
                .raise(),
                None => refused(&format!("\"{name}\" is no column of the table.")).raise(),
            }
        }
    }
}

/// Built-in types, enums, and arrays of those; domains over them where they stand as a column, for then no constraint is
/// looked at. Their operators are in pg_catalog, so a filter finds the ones that a writer would.
unsafe fn is_allowed_type(type_id: pg_sys::Oid) -> bool {
    // SAFETY: catalog look-ups inside the running transaction.
    unsafe {
        let base = pg_sys::getBaseType(type_id);
        if base.to_u32() < pg_sys::FirstNormalObjectId {
            return true;
        }
        let element = pg_sys::get_element_type(base);
        let plain = if element == pg_sys::InvalidOid {
            base
        } else {
            element
        };
        plain.to_u32() < pg_sys::FirstNormalObjectId || pg_sys::type_is_enum(plain)
    }
}

/// The same for what is named in the text or comes out of an operation: no domain.
unsafe fn is_allowed_result(type_id: pg_sys::Oid) -> bool {
    // SAFETY: as in `is_allowed_type`.
    unsafe {
        is_allowed_type(type_id)
            && (type_id.to_u32() < pg_sys::FirstNormalObjectId
                || pg_sys::getBaseType(type_id) == type_id)
    }
}

/// Walks the text's own tree, before names in it are looked up.
#[pg_guard]
unsafe extern "C-unwind" fn refuse_names(node: *mut pg_sys::Node, context: *mut c_void) -> bool {
    use pg_sys::NodeTag as Tag;
    // SAFETY: the walker's contract: null or a node whose tag says what it is; the context is what `condition` passed.
    unsafe {
        if node.is_null() {
            return false;
        }
        match (*node).type_ {
            Tag::T_ColumnRef => {
                let names = names_of((*node.cast::<pg_sys::ColumnRef>()).fields);
                match names.last() {
                    // What is not needed would have to follow when the table goes elsewhere.
                    Some(Some(_)) if names.len() > 2 => {
                        refused("It names a column with the table's schema.").raise();
                    }
                    Some(Some(name)) => (*context.cast::<FilterColumns<'_>>()).refuse(name),
                    _ => refused("It takes more than one column at once.").raise(),
                }
            }
            Tag::T_FuncCall => {
                refuse_schema(&names_of((*node.cast::<pg_sys::FuncCall>()).funcname));
            }
            Tag::T_A_Expr => refuse_schema(&names_of((*node.cast::<pg_sys::A_Expr>()).name)),
            Tag::T_TypeName => {
                let type_name: *const pg_sys::TypeName = node.cast();
                let type_id = pg_sys::LookupTypeNameOid(std::ptr::null_mut(), type_name, false);
                if !is_allowed_result(type_id) {
                    refused("It names a type of its own.").raise();
                }
                // Else nothing would tell when the type is dropped.
                if !(*context.cast::<FilterColumns<'_>>()).has(type_id) {
                    refused("It names a type that no column has.").raise();
                }
            }
            Tag::T_SubLink | Tag::T_RangeVar => refused("It reads more than the row.").raise(),
            _ => {}
        }
        ffi::walk_raw_expression(node, refuse_names, context)
    }
}

/// A function or operator that is named with another schema than pg_catalog.
fn refuse_schema(names: &[Option<String>]) {
    let own = match names {
        [Some(_)] | [] => false,
        [Some(schema), Some(_)] => schema != "pg_catalog",
        _ => true,
    };
    if own {
        refused("It uses a function or an operator of its own.").raise();
    }
}

/// The names in a list; none for what is no name.
unsafe fn names_of(list: *mut pg_sys::List) -> Vec<Option<String>> {
    // SAFETY: a list of nodes; before 15 a String node had another name, and 15 is the oldest version.
    unsafe {
        if list.is_null() {
            return Vec::new();
        }
        (0..(*list).length as usize)
            .map(|index| {
                let node: *mut pg_sys::Node = (*(*list).elements.add(index)).ptr_value.cast();
                if node.is_null() || (*node).type_ != pg_sys::NodeTag::T_String {
                    return None;
                }
                let text = (*node.cast::<pg_sys::String>()).sval;
                (!text.is_null()).then(|| utf8(CStr::from_ptr(text).to_bytes()))
            })
            .collect()
    }
}

/// The expression of `SELECT (…)`; refuses whatever closes the bracket and goes on.
unsafe fn only_expression(statements: *mut pg_sys::List) -> *mut pg_sys::Node {
    let not_one = || refused("It is not one condition.").raise();
    // SAFETY: a parse tree of PostgreSQL's own, whose node tags are looked at before it is read as what they say.
    unsafe {
        let only = |list: *mut pg_sys::List| -> *mut c_void {
            if list.is_null() || (*list).length != 1 {
                not_one();
            }
            (*(*list).elements).ptr_value
        };
        let raw: *mut pg_sys::RawStmt = only(statements).cast();
        let select: *mut pg_sys::SelectStmt = (*raw).stmt.cast();
        if (*select).type_ != pg_sys::NodeTag::T_SelectStmt {
            not_one();
        }
        let select = &*select;
        let lists = [
            select.distinctClause,
            select.fromClause,
            select.groupClause,
            select.windowClause,
            select.valuesLists,
            select.sortClause,
            select.lockingClause,
        ];
        let nodes = [
            select.whereClause,
            select.havingClause,
            select.limitOffset,
            select.limitCount,
        ];
        if select.op != pg_sys::SetOperation::SETOP_NONE
            || !select.intoClause.is_null()
            || !select.withClause.is_null()
            || lists.iter().any(|list| !list.is_null())
            || nodes.iter().any(|node| !node.is_null())
        {
            not_one();
        }
        let target: *mut pg_sys::ResTarget = only(select.targetList).cast();
        if !(*target).name.is_null() {
            not_one();
        }
        (*target).val
    }
}

/// Walks the tree; refuses what is not listed, or not PostgreSQL's own.
#[pg_guard]
unsafe extern "C-unwind" fn refuse_nodes(node: *mut pg_sys::Node, context: *mut c_void) -> bool {
    use pg_sys::NodeTag as Tag;
    let own = |oid: pg_sys::Oid| oid.to_u32() >= pg_sys::FirstNormalObjectId;
    // SAFETY: the walker's contract: null or a node whose tag says what it is.
    unsafe {
        if node.is_null() {
            return false;
        }
        match (*node).type_ {
            Tag::T_List => return ffi::walk_expression(node, refuse_nodes, context),
            Tag::T_Var => {
                let variable = &*node.cast::<pg_sys::Var>();
                if variable.varattno <= 0 {
                    refused("It uses a system column or the whole row.").raise();
                }
                if !is_allowed_type(variable.vartype) {
                    refused("It uses a column of a type of its own.").raise();
                }
            }
            Tag::T_OpExpr
            | Tag::T_DistinctExpr
            | Tag::T_NullIfExpr
            | Tag::T_ScalarArrayOpExpr
            | Tag::T_RowCompareExpr
            | Tag::T_Const
            | Tag::T_FuncExpr
            | Tag::T_BoolExpr
            | Tag::T_RelabelType
            | Tag::T_CollateExpr
            | Tag::T_CaseExpr
            | Tag::T_CaseTestExpr
            | Tag::T_ArrayExpr
            | Tag::T_RowExpr
            | Tag::T_CoalesceExpr
            | Tag::T_MinMaxExpr
            | Tag::T_XmlExpr
            | Tag::T_NullTest
            | Tag::T_BooleanTest
            // Not in publications: conversions through text, and elements of arrays.
            | Tag::T_CoerceViaIO
            | Tag::T_SubscriptingRef => {}
            _ => refused("It uses more than columns, constants, operators and functions.").raise(),
        }
        if (*node).type_ != Tag::T_Var && !is_allowed_result(pg_sys::exprType(node)) {
            refused("It makes a value of a type of its own.").raise();
        }
        let operators = match (*node).type_ {
            Tag::T_RowCompareExpr => oids_of((*node.cast::<pg_sys::RowCompareExpr>()).opnos),
            Tag::T_OpExpr | Tag::T_DistinctExpr | Tag::T_NullIfExpr => {
                vec![(*node.cast::<pg_sys::OpExpr>()).opno]
            }
            Tag::T_ScalarArrayOpExpr => vec![(*node.cast::<pg_sys::ScalarArrayOpExpr>()).opno],
            _ => Vec::new(),
        };
        if operators.into_iter().any(own)
            || pg_sys::check_functions_in_node(node, Some(is_users_function), context)
            || own(pg_sys::exprCollation(node))
            || own(pg_sys::exprInputCollation(node))
        {
            refused("It uses a function, an operator or a collation of its own.").raise();
        }
        ffi::walk_expression(node, refuse_nodes, context)
    }
}

unsafe fn oids_of(list: *mut pg_sys::List) -> Vec<pg_sys::Oid> {
    // SAFETY: null or a list of oids.
    unsafe {
        if list.is_null() {
            return Vec::new();
        }
        (0..(*list).length as usize)
            .map(|index| (*(*list).elements.add(index)).oid_value)
            .collect()
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn is_users_function(
    function: pg_sys::Oid,
    _context: *mut c_void,
) -> bool {
    function.to_u32() >= pg_sys::FirstNormalObjectId
}

/// CDC0111.
fn refused(detail: &str) -> Trouble {
    Trouble::new(
        Code::FilterNotAllowed,
        "filter is not allowed",
        "Write one condition on columns of the table with built-in immutable functions: it runs with every writer's rights.",
    )
    .detail(detail)
}
