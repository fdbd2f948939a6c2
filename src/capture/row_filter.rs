//! The filter of a tracked table: a condition on one row, with built-in immutable functions alone, for it runs with
//! every writer's rights. Follows what publications allow (commands/publicationcmds.c, check_simple_rowfilter_expr).

use std::ffi::c_void;
use std::panic::AssertUnwindSafe;

use pgrx::PgTryBuilder;
use pgrx::pg_sys;
use pgrx::pg_sys::panic::CaughtError;
use pgrx::prelude::*;

use super::row_expression::RowExpression;
use super::server_text;
use crate::ffi;
use crate::report::Report;

/// Prepares the condition `text` on rows of `relation`. CDC0111 for what is no allowed condition.
///
/// # Safety
/// In a transaction; the relation is open and locked.
pub unsafe fn prepare(relation: pg_sys::Relation, text: &str) -> RowExpression {
    // SAFETY: as the caller promises.
    unsafe {
        RowExpression::new(relation, || {
            ffi::with_pinned_search_path(|| condition(relation, text))
        })
    }
}

/// Checks a filter before anything is tracked with it.
///
/// # Safety
/// As for [`prepare`].
pub unsafe fn check(relation: pg_sys::Relation, text: &str) {
    // SAFETY: as the caller promises. Caught only to be raised again under our code: the statement ends in any case.
    unsafe {
        PgTryBuilder::new(AssertUnwindSafe(|| drop(prepare(relation, text))))
            .catch_others(|error| match error {
                CaughtError::PostgresError(report) | CaughtError::ErrorReport(report) => {
                    let ours = report.hint().is_some_and(|hint| hint.ends_with(']'));
                    if ours {
                        CaughtError::ErrorReport(report).rethrow()
                    }
                    refused(&format!("PostgreSQL says: {}.", report.message())).raise()
                }
                panic => panic.rethrow(),
            })
            .execute();
    }
}

/// The expression tree of the condition. Names mean what they mean in pg_catalog, whoever writes the row.
unsafe fn condition(relation: pg_sys::Relation, text: &str) -> *mut pg_sys::Node {
    let statement = server_text(&format!("SELECT ({text}\n)"));
    // SAFETY: the parser's own calls, in the order in which PostgreSQL makes them for a publication's row filter.
    unsafe {
        let raw = only_expression(pg_sys::raw_parser(
            statement.as_ptr(),
            pg_sys::RawParseMode::RAW_PARSE_DEFAULT,
        ));
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
        pg_sys::addNSItemToQuery(state, item, false, true, true);
        // The kind refuses subqueries, aggregates, window and set-returning functions.
        let expression = pg_sys::transformExpr(
            state,
            raw,
            pg_sys::ParseExprKind::EXPR_KIND_CHECK_CONSTRAINT,
        );
        let expression = pg_sys::coerce_to_boolean(state, expression, c"filter".as_ptr());
        pg_sys::assign_expr_collations(state, expression);
        if pg_sys::contain_mutable_functions(expression) {
            refused("It calls a function whose result depends on more than the row.").raise();
        }
        if has_forbidden_node(expression, std::ptr::null_mut()) {
            refused(
                "It uses a function, an operator or a collation of its own, or a system column.",
            )
            .raise();
        }
        pg_sys::free_parsestate(state);
        // A virtual column is what it is computed from.
        #[cfg(feature = "pg18")]
        let expression = pg_sys::expand_generated_columns_in_expr(expression, relation, 1);
        expression
    }
}

/// The expression of `SELECT (…)`; refuses whatever closes the bracket and goes on.
pub unsafe fn only_expression(statements: *mut pg_sys::List) -> *mut pg_sys::Node {
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

/// Walks the tree; true where something is not PostgreSQL's own.
#[pg_guard]
unsafe extern "C-unwind" fn has_forbidden_node(
    node: *mut pg_sys::Node,
    context: *mut c_void,
) -> bool {
    // SAFETY: the walker's contract: null or a node whose tag says what it is.
    unsafe {
        if node.is_null() {
            return false;
        }
        if (*node).type_ == pg_sys::NodeTag::T_Var {
            return (*node.cast::<pg_sys::Var>()).varattno <= 0;
        }
        let own = |oid: pg_sys::Oid| oid.to_u32() >= pg_sys::FirstNormalObjectId;
        pg_sys::check_functions_in_node(node, Some(is_users_function), context)
            || own(pg_sys::exprCollation(node))
            || own(pg_sys::exprInputCollation(node))
            || ffi::walk_expression(node, has_forbidden_node, context)
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
fn refused(detail: &str) -> Report {
    Report::new(
        "CDC0111",
        PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED,
        "filter is not allowed",
        "Write one condition on columns of the table with built-in immutable functions: it runs with every writer's rights.",
    )
    .detail(detail)
}
