//! The stores that this process has open, for whoever asks for figures.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::delivery::watermark::Complete;
use crate::statistics::kept::store::Store;

/// The open stores, by their sinks.
#[derive(Clone, Default)]
pub(crate) struct Shelf(Arc<Mutex<HashMap<String, Arc<OpenStore>>>>);

/// A store that is open.
pub(crate) struct OpenStore {
    /// The store.
    pub(crate) store: Store,
    complete: Mutex<Option<Complete>>,
}

impl OpenStore {
    /// Nothing is known yet of how far it is.
    pub(crate) fn new(store: Store) -> Arc<OpenStore> {
        Arc::new(OpenStore {
            store,
            complete: Mutex::new(None),
        })
    }

    /// Everything up to this commit is counted.
    pub(crate) fn note_complete(&self, complete: Option<Complete>) {
        *self.complete.lock().unwrap_or_else(PoisonError::into_inner) = complete;
    }

    /// The commit up to which everything is counted, if that is known.
    pub(crate) fn complete(&self) -> Option<Complete> {
        let complete = self.complete.lock();
        complete.unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Shelf {
    /// Puts a store there.
    pub(crate) fn put(&self, sink: &str, store: &Arc<OpenStore>) {
        let mut stores = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        stores.insert(sink.to_owned(), Arc::clone(store));
    }

    /// The store of a sink, if it is open.
    pub(crate) fn get(&self, sink: &str) -> Option<Arc<OpenStore>> {
        let stores = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        stores.get(sink).cloned()
    }

    /// Takes a store away.
    pub(crate) fn remove(&self, sink: &str) {
        let mut stores = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        stores.remove(sink);
    }
}
