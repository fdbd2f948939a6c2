//! Names of collections: what the configuration makes of a table's name, in a form that servers take.

use crate::sink::mongo_history::identity::told::Name;

/// What no server takes, or what is a server's or companion-sink's own.
const RESERVED: [&str; 4] = [".", "system.", "companion_", "_ferretdb_"];
/// FerretDB's limit of a collection's name; MongoDB's is 255 with the database's name and a dot before it.
const NAME_BYTES_MAX: usize = 235;
/// Left for what tells equal names apart.
const SUFFIX_BYTES: usize = 4;

/// The names that a table's collection can have, the first that is free is taken: as `template` says it, with schema and
/// database in front, with a number behind. Before them the name without a schema in front, which tables of all schemas had
/// in earlier versions: it is taken only where their documents are there.
pub(crate) struct Candidates {
    /// What earlier versions called it, where that is another name.
    pub(crate) former: Option<String>,
    names: [String; 3],
}

impl Candidates {
    /// Those of a table, in a database of this name.
    pub(crate) fn of(template: &str, name: &Name, database: &str) -> Candidates {
        let made = |template: &str| {
            let in_front = match name.schema.as_str() {
                "public" => String::new(),
                schema => format!("{schema}_"),
            };
            let made = template
                .replace("{schema_}", &in_front)
                .replace("{database}", &name.database)
                .replace("{schema}", &name.schema)
                .replace("{table}", &name.table);
            accepted(&made, database)
        };
        let plain = made(template);
        let former = made(&template.replace("{schema_}", ""));
        Candidates {
            former: (former != plain).then_some(former),
            names: [
                plain,
                made(&format!("{{schema}}_{}", template.replace("{schema_}", ""))),
                made(&format!(
                    "{{database}}_{{schema}}_{}",
                    template.replace("{schema_}", "")
                )),
            ],
        }
    }

    /// The one of a place; without end.
    pub(crate) fn at(&self, place: usize) -> String {
        match self.names.get(place) {
            Some(name) => name.clone(),
            None => format!("{}_{}", self.names[0], place + 2 - self.names.len()),
        }
    }
}

/// The name in a form that servers take, in a database of this name. Several names may come to one form.
fn accepted(name: &str, database: &str) -> String {
    let mut name = name.replace(['$', '\0'], "_");
    if name.is_empty() || RESERVED.iter().any(|prefix| name.starts_with(prefix)) {
        name.insert_str(0, "t_");
    }
    let limit = NAME_BYTES_MAX.min(254_usize.saturating_sub(database.len())) - SUFFIX_BYTES;
    let end = (0..=limit).rev().find(|end| name.is_char_boundary(*end));
    name.truncate(end.unwrap_or_default().min(name.len()));
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(schema: &str, table: &str) -> Name {
        Name {
            from: String::new(),
            header: String::new(),
            database: "shop".into(),
            schema: schema.into(),
            table: table.into(),
        }
    }

    #[test]
    fn a_second_table_of_a_name_has_its_schema_in_front() {
        let template = "{schema_}{table}_history";
        let public = Candidates::of(template, &name("public", "customer"), "history");
        assert_eq!(
            (public.at(0).as_str(), &public.former),
            ("customer_history", &None)
        );
        let crm = Candidates::of(template, &name("crm", "customer"), "history");
        assert_eq!(crm.at(0), "crm_customer_history");
        assert_eq!(crm.former.as_deref(), Some("customer_history"));
        let own = Candidates::of("{table}", &name("crm", "customer"), "history");
        let names: Vec<String> = (0..5).map(|place| own.at(place)).collect();
        assert_eq!(
            names,
            [
                "customer",
                "crm_customer",
                "shop_crm_customer",
                "customer_2",
                "customer_3"
            ]
        );
    }

    #[test]
    fn what_servers_refuse_or_have_themselves_is_called_otherwise() {
        for (table, accepted) in [
            ("price$hist", "price_hist"),
            ("system.users", "t_system.users"),
            (".a", "t_.a"),
            ("companion_offsets", "t_companion_offsets"),
            ("", "t_"),
            ("Größe", "Größe"),
        ] {
            assert_eq!(
                Candidates::of("{table}", &name("public", table), "history").at(0),
                accepted
            );
        }
        let long = "ä".repeat(300);
        let long = Candidates::of("{table}", &name("public", &long), "history").at(9);
        assert!(long.len() <= 235 && long.ends_with("_8"), "{long}");
    }
}
