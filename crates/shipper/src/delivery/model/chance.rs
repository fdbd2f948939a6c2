//! What decides.

use std::cell::RefCell;
use std::rc::Rc;

/// A series of decisions, shared by all who ask. The first of the possible answers does no harm.
#[derive(Clone)]
pub(super) struct Chance(Rc<RefCell<(Vec<u8>, usize)>>);

impl Chance {
    pub(super) fn new(bytes: Vec<u8>) -> Chance {
        Chance(Rc::new(RefCell::new((bytes, 0))))
    }

    /// A number below `count`; 0 when the series is used up.
    pub(super) fn below(&self, count: usize) -> usize {
        let (bytes, next) = &mut *self.0.borrow_mut();
        let byte = bytes.get(*next).copied().unwrap_or(0);
        *next += 1;
        usize::from(byte) * count / 256
    }
}
