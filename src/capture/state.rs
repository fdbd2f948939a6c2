//! What capture keeps in a backend.

use std::cell::RefCell;

use super::buffer::Buffer;
use super::plan::cache::Plans;

/// Everything that capture keeps in a backend.
pub(crate) struct Capture {
    pub plans: Plans,
    pub buffer: Buffer,
}

thread_local! {
    static CAPTURE: RefCell<Capture> = RefCell::new(Capture { plans: Plans::default(), buffer: Buffer::default() });
}

/// Runs `body` with this backend's capture state. An error inside leaves the state as it is: whoever aborts the
/// (sub)transaction takes back what it had written.
pub(crate) fn with_capture<R>(body: impl FnOnce(&mut Capture) -> R) -> R {
    CAPTURE.with_borrow_mut(body)
}

/// The same for callbacks that must not fail: `None` while the state is in use.
pub(crate) fn try_with_capture<R>(body: impl FnOnce(&mut Capture) -> R) -> Option<R> {
    CAPTURE.with(|capture| {
        capture
            .try_borrow_mut()
            .ok()
            .map(|mut capture| body(&mut capture))
    })
}
