//! What a batch changes: written to the changelog first, then to the store, each time as a whole.

use std::collections::{BTreeMap, HashMap};

use crate::error::Result;
use crate::statistics::kept::cell::Cell;
use crate::statistics::kept::store::{Snapshot, damaged};

/// The store as it is after a batch, while that is counted.
pub(crate) struct Changes {
    before: Snapshot,
    values: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
    /// Cells that were looked at; none for one without rows.
    cells: HashMap<Vec<u8>, Cell>,
}

impl Changes {
    /// Nothing is changed yet of what is there.
    pub(crate) fn new(before: Snapshot) -> Changes {
        Changes {
            before,
            values: BTreeMap::new(),
            cells: HashMap::new(),
        }
    }

    /// What was there before.
    pub(crate) fn before(&self) -> &Snapshot {
        &self.before
    }

    /// What is there now.
    pub(crate) fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>> {
        match self.values.get(key) {
            Some(value) => Ok(value.clone()),
            None => self.before.get(key),
        }
    }

    /// Writes a value.
    pub(crate) fn set(&mut self, key: Vec<u8>, value: Vec<u8>) {
        self.values.insert(key, Some(value));
    }

    /// Takes a value away.
    pub(crate) fn remove(&mut self, key: Vec<u8>) {
        self.values.insert(key, None);
    }

    /// Takes away what begins so.
    pub(crate) fn remove_all(&mut self, prefix: &[u8]) -> Result<()> {
        let mut found = Vec::new();
        self.before.each(prefix, |key, _| {
            found.push(key.to_vec());
            Ok(())
        })?;
        for key in found {
            self.remove(key);
        }
        Ok(())
    }

    /// A cell, with so many inputs if it is not there, to be changed.
    pub(crate) fn cell(&mut self, key: Vec<u8>, inputs: usize) -> Result<&mut Cell> {
        if !self.cells.contains_key(&key) {
            let cell = match self.get(&key)? {
                Some(bytes) => Cell::read(&bytes).map_err(damaged)?,
                None => Cell::new(inputs),
            };
            self.cells.insert(key.clone(), cell);
        }
        Ok(self.cells.entry(key).or_default())
    }

    /// Everything that changed, in the order of the keys; none for what is gone.
    pub(crate) fn finish(mut self) -> BTreeMap<Vec<u8>, Option<Vec<u8>>> {
        for (key, cell) in self.cells.drain() {
            let bytes = (cell.rows > 0).then(|| cell.bytes());
            self.values.insert(key, bytes);
        }
        self.values
    }
}
