//! An array of texts as the server takes it, written value by value without anything in between.

use std::error::Error;

use bytes::{BufMut, BytesMut};
use tokio_postgres::types::{IsNull, ToSql, Type, to_sql_checked};

/// A parameter `text[]` of one dimension (`array_send`, `src/backend/utils/adt/arrayfuncs.c`).
#[derive(Debug, Default)]
pub(crate) struct TextArray {
    elements: BytesMut,
    count: i32,
    has_null: bool,
}

impl TextArray {
    /// Adds a value; `None` is NULL.
    pub(crate) fn push(&mut self, value: Option<&str>) {
        self.count += 1;
        match value {
            // A value comes from an event, which is far below two gigabytes.
            Some(text) => {
                self.elements.put_i32(text.len() as i32);
                self.elements.put_slice(text.as_bytes());
            }
            None => {
                self.has_null = true;
                self.elements.put_i32(-1);
            }
        }
    }
}

impl ToSql for TextArray {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        const DIMENSIONS: i32 = 1;
        const LOWER_BOUND: i32 = 1;
        out.reserve(20 + self.elements.len());
        out.put_i32(DIMENSIONS);
        out.put_i32(i32::from(self.has_null));
        out.put_u32(Type::TEXT.oid());
        out.put_i32(self.count);
        out.put_i32(LOWER_BOUND);
        out.put_slice(&self.elements);
        Ok(IsNull::No)
    }

    fn accepts(wanted: &Type) -> bool {
        *wanted == Type::TEXT_ARRAY
    }

    to_sql_checked!();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_what_the_driver_makes_of_a_vector() {
        let values = [Some("a"), None, Some(""), Some("ä")];
        let mut array = TextArray::default();
        let (mut ours, mut drivers) = (BytesMut::new(), BytesMut::new());
        values.into_iter().for_each(|value| array.push(value));
        array.to_sql(&Type::TEXT_ARRAY, &mut ours).unwrap();
        let vector = values.to_vec();
        vector.to_sql(&Type::TEXT_ARRAY, &mut drivers).unwrap();
        assert_eq!(ours, drivers);
    }
}
