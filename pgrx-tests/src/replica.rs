//! Whether a replica equals its source, row for row and value for value.

use postgres::Client;
use sha2::{Digest, Sha256};

/// The content of a table: every row as PostgreSQL writes it, sorted.
#[derive(Debug, PartialEq, Eq)]
pub struct Content {
    rows: Vec<String>,
}

impl Content {
    /// Reads a table (`customer` or `public.customer`): the columns named in `columns`, in that order.
    ///
    /// # Panics
    /// When it cannot be read.
    pub fn read(client: &mut Client, table: &str, columns: &[String]) -> Content {
        Content::try_read(client, table, columns).unwrap_or_else(|e| panic!("{e}"))
    }

    /// As [`Content::read`]; why it cannot be read.
    pub fn try_read(
        client: &mut Client,
        table: &str,
        columns: &[String],
    ) -> Result<Content, String> {
        let list: Vec<String> = columns
            .iter()
            .map(|c| format!("\"{}\"", c.replace('"', "\"\"")))
            .collect();
        let query = format!("SELECT ROW({})::text FROM {table}", list.join(", "));
        let rows = client.query(&query, &[]);
        let rows = rows.map_err(|e| format!("{query}: {e:?}"))?;
        let mut rows: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
        rows.sort_unstable();
        Ok(Content { rows })
    }

    /// The number of rows.
    pub fn row_count(&self) -> usize {
        self.rows.len()
    }

    /// SHA-256 over all rows, as 64 hex digits.
    pub fn sha256(&self) -> String {
        let mut hash = Sha256::new();
        for row in &self.rows {
            hash.update(row.as_bytes());
            hash.update(b"\n");
        }
        hash.finalize()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect()
    }

    /// The rows that are in `self` and not in `other`, a row twice if it is there twice more (EXCEPT ALL).
    pub fn except_all<'a>(&'a self, other: &Content) -> Vec<&'a str> {
        let mut others = other.rows.iter().peekable();
        let mut left = Vec::new();
        for row in &self.rows {
            while others.peek().is_some_and(|o| *o < row) {
                others.next();
            }
            if others.peek().is_some_and(|o| *o == row) {
                others.next();
            } else {
                left.push(row.as_str());
            }
        }
        left
    }
}

/// The names of a table's columns, in their order.
///
/// # Panics
/// When there is no such table.
pub fn columns(client: &mut Client, table: &str) -> Vec<String> {
    let query = "SELECT attname::text FROM pg_attribute
                 WHERE attrelid = to_regclass($1) AND attnum > 0 AND NOT attisdropped ORDER BY attnum";
    let rows = client
        .query(query, &[&table])
        .unwrap_or_else(|e| panic!("columns of {table}: {e:?}"));
    assert!(!rows.is_empty(), "there is no table {table}");
    rows.iter().map(|row| row.get(0)).collect()
}

/// Both sides' content of a table, by the source's columns.
///
/// # Panics
/// When one of them cannot be read.
pub fn both_sides(source: &mut Client, replica: &mut Client, table: &str) -> (Content, Content) {
    let columns = columns(source, table);
    (
        Content::read(source, table, &columns),
        Content::read(replica, table, &columns),
    )
}

/// Asserts that a table has the same rows on both sides, with the same values; returns their number.
///
/// # Panics
/// With the first rows that differ.
pub fn assert_equal(source: &mut Client, replica: &mut Client, table: &str) -> usize {
    let (here, there) = both_sides(source, replica, table);
    let (missing, too_many) = (here.except_all(&there), there.except_all(&here));
    assert!(
        missing.is_empty() && too_many.is_empty(),
        "the replica of {table} differs: {} rows in the source, {} in the replica\n\
         only in the source ({}): {:?}\nonly in the replica ({}): {:?}",
        here.row_count(),
        there.row_count(),
        missing.len(),
        &missing[..missing.len().min(5)],
        too_many.len(),
        &too_many[..too_many.len().min(5)],
    );
    here.row_count()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content(rows: &[&str]) -> Content {
        Content {
            rows: rows.iter().map(|r| (*r).to_owned()).collect(),
        }
    }

    #[test]
    fn except_all_counts_copies() {
        let (a, b) = (content(&["(1)", "(1)", "(2)"]), content(&["(1)", "(3)"]));
        assert_eq!(a.except_all(&b), ["(1)", "(2)"]);
        assert_eq!(b.except_all(&a), ["(3)"]);
        assert_eq!(a.except_all(&a), Vec::<&str>::new());
    }

    #[test]
    fn the_digest_tells_rows_apart() {
        assert_eq!(content(&["a", "b"]).sha256(), content(&["a", "b"]).sha256());
        assert_ne!(content(&["a", "b"]).sha256(), content(&["ab"]).sha256());
    }
}
