//! One value: how its type is encoded, found out once per plan and done for every row.

pub(crate) mod described;
pub(crate) mod encode;
pub(crate) mod mask;
mod output;
pub(crate) mod pinned_style;
mod row_type;
pub(crate) mod varlena;
