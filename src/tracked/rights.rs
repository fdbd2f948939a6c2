//! Whose rights count: the caller's, the owner's, or nobody's.

use pgrx::pg_sys;

use super::statement;

/// Whether the caller is a member of cdc_admin (superusers are).
pub(crate) fn is_admin() -> bool {
    // SAFETY: catalog look-ups inside the running transaction; a missing role gives InvalidOid.
    unsafe {
        let role = pg_sys::get_role_oid(c"cdc_admin".as_ptr(), true);
        let user = pg_sys::GetUserId();
        pg_sys::superuser_arg(user)
            || (role != pg_sys::InvalidOid && pg_sys::has_privs_of_role(user, role))
    }
}

/// Whether the caller may know of the whole server what `cdc_status` shows: names of brokers, paths, other databases.
pub(crate) fn is_monitor() -> bool {
    // SAFETY: catalog look-ups inside the running transaction.
    is_admin()
        || unsafe {
            pg_sys::has_privs_of_role(
                pg_sys::GetUserId(),
                pg_sys::Oid::from(pg_sys::ROLE_PG_MONITOR),
            )
        }
}

/// Runs `body` as the bootstrap superuser: the caller was checked before, and need not have the rights that each step
/// takes. The caller's search_path does not count inside. An error restores both with the (sub)transaction.
pub(crate) fn as_superuser<R>(body: impl FnOnce() -> R) -> R {
    let superuser = pg_sys::Oid::from(pg_sys::BOOTSTRAP_SUPERUSERID);
    statement::pinned(|| as_user(superuser, pg_sys::SECURITY_LOCAL_USERID_CHANGE, body))
}

pub(crate) fn as_user<R>(other: pg_sys::Oid, restrictions: u32, body: impl FnOnce() -> R) -> R {
    let mut user = pg_sys::InvalidOid;
    let mut security = 0;
    // SAFETY: the pair is restored below; PostgreSQL restores it itself when the (sub)transaction aborts.
    unsafe {
        pg_sys::GetUserIdAndSecContext(&mut user, &mut security);
        pg_sys::SetUserIdAndSecContext(other, security | restrictions as i32);
    }
    let result = body();
    // SAFETY: as above.
    unsafe { pg_sys::SetUserIdAndSecContext(user, security) };
    result
}

/// Whether an administrator asks, also by a function that runs with other rights.
pub(crate) fn asks_as_admin() -> bool {
    // SAFETY: plain reads, and catalog look-ups inside the running transaction.
    unsafe {
        let role = pg_sys::get_role_oid(c"cdc_admin".as_ptr(), true);
        let user = pg_sys::GetOuterUserId();
        pg_sys::superuser_arg(user)
            || (role != pg_sys::InvalidOid && pg_sys::has_privs_of_role(user, role))
    }
}
