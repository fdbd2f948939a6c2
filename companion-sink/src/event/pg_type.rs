//! Types of PostgreSQL, as far as their values differ in events.

/// How values of a type arrive, as far as that differs from "the text as it is".
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum PgType {
    /// Numbers, texts and whatever PostgreSQL reads as it stands.
    Plain,
    /// `numeric` and `money` arrive as text, the others as numbers unless JSON has none such.
    Number,
    /// `bit(1)` arrives as true or false, longer ones as digits.
    Bit,
    /// Arrives as base64.
    Bytea,
    /// Arrives with years before Christ as negative ones.
    Date,
    /// As a date, and a time behind `T`.
    Timestamp,
    /// As a timestamp, with `Z` behind.
    TimestampTz,
    /// Arrives as the text of a JSON object.
    Hstore,
    /// Arrives as nested JSON arrays, or as PostgreSQL's text.
    Array {
        /// The type of the elements.
        element: Box<PgType>,
        /// What separates them: a comma, for `box` a semicolon.
        delimiter: char,
    },
    /// `int2vector` and `oidvector`: elements between blanks.
    Vector,
    /// Arrives as an object by attribute.
    Composite(Vec<(String, PgType)>),
}

impl PgType {
    /// The type of this name, as a definition of a table has it; a domain, an enum or a composite is not told apart from a
    /// text.
    pub(crate) fn of_name(name: &str) -> PgType {
        if let Some(element) = name.strip_suffix("[]") {
            return PgType::Array {
                element: Box::new(PgType::of_name(element)),
                delimiter: if element == "box" { ';' } else { ',' },
            };
        }
        // `numeric(10,2)`, `timestamp(3) without time zone`
        let (before, modifier) = name.split_once('(').unwrap_or((name, ""));
        let after = modifier.split_once(')').map_or("", |(_, after)| after);
        match (before, after) {
            ("timestamp", " with time zone") => return PgType::TimestampTz,
            ("timestamp", _) => return PgType::Timestamp,
            _ => {}
        }
        match before {
            "smallint" | "integer" | "bigint" | "numeric" | "real" | "double precision"
            | "money" => PgType::Number,
            "bit" => PgType::Bit,
            "bytea" => PgType::Bytea,
            "date" => PgType::Date,
            "timestamp without time zone" => PgType::Timestamp,
            "timestamp with time zone" => PgType::TimestampTz,
            "hstore" => PgType::Hstore,
            _ => PgType::Plain,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn array_of(element: PgType) -> PgType {
        PgType::Array {
            element: Box::new(element),
            delimiter: ',',
        }
    }

    #[test]
    fn types_are_known_by_their_names() {
        for (name, of) in [
            ("numeric", PgType::Number),
            ("numeric(10,2)", PgType::Number),
            ("timestamp(3) with time zone", PgType::TimestampTz),
            ("timestamp without time zone", PgType::Timestamp),
            ("time(0) without time zone", PgType::Plain),
            ("time with time zone", PgType::Plain),
            ("character varying(5)", PgType::Plain),
            ("date[]", array_of(PgType::Date)),
        ] {
            assert_eq!(PgType::of_name(name), of, "{name}");
        }
    }
}
