//! Values of variable length: their content, and how it is counted.

use change::wire::put_varint;
use pgrx::pg_sys;

use crate::reserve::reserve;
use crate::text::utf8;

/// # Safety
/// Both point to varlenas.
pub(super) unsafe fn same_varlena(old: pg_sys::Datum, new: pg_sys::Datum) -> bool {
    // SAFETY: as the caller promises; VARSIZE_ANY gives the full length.
    unsafe {
        let (old, new): (*mut pg_sys::varlena, *mut pg_sys::varlena) =
            (old.cast_mut_ptr(), new.cast_mut_ptr());
        let len = pgrx::varsize_any(old);
        len == pgrx::varsize_any(new)
            && std::slice::from_raw_parts(old.cast::<u8>(), len)
                == std::slice::from_raw_parts(new.cast::<u8>(), len)
    }
}

/// # Safety
/// `datum` is passed by reference, and has `len` bytes.
#[inline]
pub(super) unsafe fn bytes_at<'a>(datum: pg_sys::Datum, len: usize) -> &'a [u8] {
    // SAFETY: as the caller promises.
    unsafe { std::slice::from_raw_parts(datum.cast_mut_ptr(), len) }
}

/// Appends the content of a varlena, converted from the database's encoding if `convert`.
///
/// # Safety
/// `datum` points to a varlena.
#[inline]
pub(super) unsafe fn put_varlena(out: &mut Vec<u8>, datum: pg_sys::Datum, convert: bool) {
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
    /// The value, if it is longer than `limit_bytes`.
    ///
    /// # Safety
    /// `datum` points to a varlena.
    #[inline]
    pub(super) unsafe fn beyond(datum: pg_sys::Datum, limit_bytes: usize) -> Option<LargeVarlena> {
        // SAFETY: as the caller promises; the size of a fetched one stands in its pointer.
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

    /// Gives `take` the value.
    ///
    /// # Safety
    /// The row that it came from is still there.
    pub(crate) unsafe fn with_bytes<R>(&self, take: impl FnOnce(&[u8]) -> R) -> R {
        // SAFETY: as the caller promises.
        unsafe { with_varlena(self.0, take) }
    }
}

/// Appends the length, and the bytes.
#[inline]
pub(super) fn put_counted(out: &mut Vec<u8>, bytes: &[u8]) {
    reserve(out, bytes.len() + 10);
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}
