//! An expression on one row: prepared once per plan, evaluated for every row.

use pgrx::pg_sys;

use crate::ffi;

/// Everything lies in a memory context of its own.
pub(crate) struct RowExpression {
    memory: pg_sys::MemoryContext,
    state: *mut pg_sys::ExprState,
    context: *mut pg_sys::ExprContext,
    slot: *mut pg_sys::TupleTableSlot,
}

impl RowExpression {
    /// Prepares the expression that `make` gives, on rows of `relation`.
    ///
    /// # Safety
    /// In a transaction; the relation is open and locked; the expression's variables are the relation's, as its first
    /// range table entry.
    pub(crate) unsafe fn new(
        relation: pg_sys::Relation,
        make: impl FnOnce() -> *mut pg_sys::Node,
    ) -> RowExpression {
        // SAFETY: as the caller promises; everything is made in the new context, which lives as long as the expression.
        unsafe {
            // Of the transaction's memory until it is complete: an ERROR in between leaves nothing behind.
            let memory = pg_sys::AllocSetContextCreateInternal(
                pg_sys::CurrentMemoryContext,
                c"pg_cdc expression".as_ptr(),
                pg_sys::ALLOCSET_SMALL_MINSIZE as usize,
                pg_sys::ALLOCSET_SMALL_INITSIZE as usize,
                pg_sys::ALLOCSET_SMALL_MAXSIZE as usize,
            );
            let before = pg_sys::MemoryContextSwitchTo(memory);
            let expression = pg_sys::expression_planner(make().cast());
            let state = pg_sys::ExecInitExpr(expression, std::ptr::null_mut());
            let context = pg_sys::CreateStandaloneExprContext();
            // With what rows have in a column that is younger than they are (its missing value).
            let descriptor = pg_sys::CreateTupleDescCopyConstr((*relation).rd_att);
            let slot = pg_sys::MakeSingleTupleTableSlot(descriptor, &pg_sys::TTSOpsHeapTuple);
            pg_sys::MemoryContextSwitchTo(before);
            pg_sys::MemoryContextSetParent(memory, pg_sys::TopMemoryContext);
            RowExpression {
                memory,
                state,
                context,
                slot,
            }
        }
    }

    /// The value for a row, `None` for NULL. A value by reference lies in the current memory context.
    ///
    /// # Safety
    /// The tuple is a row of the expression's relation.
    pub(crate) unsafe fn value(&self, tuple: pg_sys::HeapTuple) -> Option<pg_sys::Datum> {
        // SAFETY: the slot has the relation's descriptor and does not own the tuple.
        unsafe {
            pg_sys::ExecStoreHeapTuple(tuple, self.slot, false);
            (*self.context).ecxt_scantuple = self.slot;
            let mut is_null = false;
            let value = ffi::evaluate(self.state, self.context, &mut is_null);
            (!is_null).then_some(value)
        }
    }

    /// Whether a condition holds for a row; unknown (NULL) is not.
    ///
    /// # Safety
    /// As for [`RowExpression::value`]; the expression is boolean.
    pub(crate) unsafe fn holds(&self, tuple: pg_sys::HeapTuple) -> bool {
        // SAFETY: as the caller promises; what the evaluation allocates lies in memory that is reset before the next one.
        unsafe {
            let scratch = (*self.context).ecxt_per_tuple_memory;
            pg_sys::MemoryContextReset(scratch);
            let before = pg_sys::MemoryContextSwitchTo(scratch);
            let value = self.value(tuple);
            pg_sys::MemoryContextSwitchTo(before);
            value.is_some_and(|value| value.value() != 0)
        }
    }
}

impl Drop for RowExpression {
    fn drop(&mut self) {
        // SAFETY: made by `new`, deleted once; nothing else points into it. The expression context has a memory
        // context of its own under the one in which it was made.
        unsafe { pg_sys::MemoryContextDelete(self.memory) };
    }
}
