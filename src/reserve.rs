//! Room for what depends on data.

use change::code::Code;
use change::memory::may_fail;
use change::trouble::Trouble;

use crate::report::Raise;

/// Makes room for `bytes` more: an ERROR where memory is out, never an abort of the process.
#[inline]
pub(crate) fn reserve(out: &mut Vec<u8>, bytes: usize) {
    if out.capacity() - out.len() < bytes {
        grow(out, bytes);
    }
}

#[cold]
fn grow(out: &mut Vec<u8>, bytes: usize) {
    // Doubling, as Vec does by itself, so that a transaction of n bytes copies O(n).
    let wanted = bytes.max(out.capacity());
    if may_fail(|| out.try_reserve(wanted)).is_err()
        && may_fail(|| out.try_reserve_exact(bytes)).is_err()
    {
        Trouble::new(
            Code::CaptureOutOfMemory,
            "out of memory while capturing",
            "Lower cdc.capture_buffer, or change fewer or smaller rows in one statement.",
        )
        .detail(format!("{bytes} more bytes could not be had."))
        .raise();
    }
}
