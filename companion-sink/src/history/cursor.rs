//! Where a page of an answer ends: the next one begins behind it.

use mongodb::bson::{Document, doc};

/// A document's place in the order of versions. Documents that the end of a snapshot makes share its version.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Cursor {
    version: String,
    id: String,
}

impl Cursor {
    /// As `text` wrote it; an empty one is before everything.
    pub(crate) fn parse(text: &str) -> Cursor {
        let (version, id) = text.split_once('_').unwrap_or((text, ""));
        Cursor {
            version: version.to_owned(),
            id: id.to_owned(),
        }
    }

    /// The place of a document, to be given back.
    pub(crate) fn text(version: &str, id: &str) -> String {
        format!("{version}_{id}")
    }

    /// What finds the documents behind it.
    pub(crate) fn filter(&self) -> Document {
        doc! { "$or": [
            { "version": { "$gt": &self.version } },
            { "version": &self.version, "_id": { "$gt": &self.id } },
        ] }
    }

    /// The order of places, or the other way round.
    pub(crate) fn order(backwards: bool) -> Document {
        let order = if backwards { -1 } else { 1 };
        doc! { "version": order, "_id": order }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_comes_back() {
        let text = Cursor::text("0001-00", "5b1f-1:t:{\"a_b\":1}");
        let place = Cursor::parse(&text);
        assert_eq!(
            place,
            Cursor {
                version: "0001-00".into(),
                id: "5b1f-1:t:{\"a_b\":1}".into(),
            }
        );
        assert_eq!(Cursor::parse(""), Cursor::default());
    }
}
