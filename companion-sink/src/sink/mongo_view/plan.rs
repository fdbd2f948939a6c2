//! What a view is made of, as its settings say it: a tree of tables, the root's at the top.

use std::collections::{BTreeMap, BTreeSet};

use mongodb::bson::{Bson, Document};

use crate::config::{JoinSettings, MongoViewSettings};
use crate::error::{Result, misconfigured};
use crate::sink::mongo_history::documents::bson_value::Names;
use crate::sink::mongo_view::own_events::root::{KEY, OwnRoot};

/// The document's own fields, which no column and no join may have.
pub(crate) const ID: &str = "_id";
/// The commit that a document was last written for.
pub(crate) const VERSION: &str = "_version";
/// Events of rows that are in the document and were refused.
pub(crate) const REFUSED: &str = "_refused";

/// A longer value stands in links as its digest: an index holds 1024 bytes.
const LINK_BYTES_MAX: usize = 200;

/// The plan of the sink `name`; CDC1001 where there is none.
pub(crate) fn plan_of(name: &str, settings: &MongoViewSettings) -> Result<Plan> {
    Plan::new(settings).map_err(|why| {
        misconfigured(
            format!("sink.{name}.{why}"),
            "Change it there; `companion-sink config --defaults` shows every key.",
        )
    })
}

/// A view's tree of tables.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Plan {
    /// The root first, each before those that are joined to it.
    pub(crate) nodes: Vec<Node>,
    /// The columns by which rows find each other, of each table.
    linking: BTreeMap<String, BTreeSet<String>>,
    /// The root's, where it is a topic of own events.
    pub(crate) own: Option<OwnRoot>,
}

/// A table's part of a document. A table may have several.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Node {
    /// `schema.table`
    pub(crate) table: String,
    /// What it is joined to; none for the root.
    pub(crate) edge: Option<Edge>,
    /// Names in documents and columns; none for all columns under their names.
    pub(crate) fields: Vec<(String, String)>,
    /// Those that are joined to this one.
    pub(crate) children: Vec<usize>,
}

/// How a table is joined to another one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Edge {
    /// The node above.
    pub(crate) parent: usize,
    /// The column of this table.
    pub(crate) column: String,
    /// The column of the table above that has the same value.
    pub(crate) parent_column: String,
    /// The field that the rows become.
    pub(crate) field: String,
    /// All rows, as an array.
    pub(crate) is_many: bool,
    /// The column of their order, and whether the other way round.
    pub(crate) order_by: Option<(String, bool)>,
    /// The collection that is referenced instead of embedding the row.
    pub(crate) reference: Option<String>,
}

impl Plan {
    /// The plan of a view; what cannot be meant, with the name of its key.
    pub(crate) fn new(settings: &MongoViewSettings) -> std::result::Result<Plan, String> {
        let own = OwnRoot::new(settings)?;
        let table = match &own {
            Some(own) => own.table(),
            None => {
                check_table(&settings.root).map_err(|why| format!("root: {why}"))?;
                settings.root.clone()
            }
        };
        let mut plan = Plan {
            nodes: Vec::new(),
            linking: BTreeMap::new(),
            own,
        };
        plan.nodes.push(Node {
            table,
            edge: None,
            fields: fields(&settings.fields)?,
            children: Vec::new(),
        });
        for (place, join) in settings.join.iter().enumerate() {
            let path = format!("join[{place}]");
            plan.add(0, join, &path)?;
        }
        plan.check_names(0, "")?;
        plan.find_paths()?;
        Ok(plan)
    }

    /// Where an own event has what the view uses of it.
    fn find_paths(&mut self) -> std::result::Result<(), String> {
        let Some(mut own) = self.own.take() else {
            return Ok(());
        };
        let table = own.table();
        for (name, path) in &self.nodes[0].fields {
            let wrong = |why| format!("fields.{name}: {why}");
            own.add_path(path).map_err(wrong)?;
        }
        let linking = self.linking.entry(table).or_default();
        for path in linking.iter() {
            let wrong = |why| format!("join.on: {why}");
            own.add_path(path).map_err(wrong)?;
        }
        if own.id.is_some() {
            linking.insert(KEY.to_owned());
        }
        own.has_whole_value = self.nodes[0].fields.is_empty();
        self.own = Some(own);
        Ok(())
    }

    fn add(
        &mut self,
        parent: usize,
        join: &JoinSettings,
        path: &str,
    ) -> std::result::Result<(), String> {
        let at = |key: &str, why: String| format!("{path}.{key}: {why}");
        check_table(&join.table).map_err(|why| at("table", why))?;
        if self.own.as_ref().is_some_and(|own| own.topic == join.table) {
            let why = "rows of tables are joined to own events, and no own events";
            return Err(at("table", why.into()));
        }
        let (column, parent_column) = columns_of(&join.on).ok_or_else(|| {
            at(
                "on",
                format!(
                    "\"{}\" is not column = column, the first of {}, the second of {}",
                    join.on, join.table, self.nodes[parent].table
                ),
            )
        })?;
        if join.field.is_empty() {
            return Err(at("as", "the name of the field is missing".into()));
        }
        if !join.reference.is_empty() && (!join.fields.is_empty() || !join.join.is_empty()) {
            let why = "a reference has neither fields nor join";
            return Err(at("reference", why.into()));
        }
        let order_by = match join.order_by.strip_prefix('-') {
            _ if join.order_by.is_empty() => None,
            Some(column) => Some((column.to_owned(), true)),
            None => Some((join.order_by.clone(), false)),
        };
        for (table, column) in [
            (&join.table, column),
            (&self.nodes[parent].table, parent_column),
        ] {
            let columns = self.linking.entry(table.clone()).or_default();
            columns.insert(column.to_owned());
        }
        let node = self.nodes.len();
        self.nodes.push(Node {
            table: join.table.clone(),
            edge: Some(Edge {
                parent,
                column: column.to_owned(),
                parent_column: parent_column.to_owned(),
                field: join.field.clone(),
                is_many: join.many,
                order_by,
                reference: Some(join.reference.clone()).filter(|name| !name.is_empty()),
            }),
            fields: fields(&join.fields).map_err(|why| format!("{path}.{why}"))?,
            children: Vec::new(),
        });
        self.nodes[parent].children.push(node);
        for (place, join) in join.join.iter().enumerate() {
            self.add(node, join, &format!("{path}.join[{place}]"))?;
        }
        Ok(())
    }

    /// No field of a document has two meanings.
    fn check_names(&self, node: usize, path: &str) -> std::result::Result<(), String> {
        let mut names = BTreeSet::new();
        let of_children = self.nodes[node].children.iter().filter_map(|child| {
            let edge = self.nodes[*child].edge.as_ref()?;
            Some(edge.field.as_str())
        });
        let own = self.nodes[node]
            .fields
            .iter()
            .map(|(name, _)| name.as_str());
        for name in own.chain(of_children) {
            if path.is_empty() && [ID, VERSION, REFUSED].contains(&name) {
                return Err(format!("the field {name} is the view's own"));
            }
            if !names.insert(name) {
                return Err(format!("two fields are called {path}{name}"));
            }
        }
        for child in &self.nodes[node].children {
            let field = self.nodes[*child].edge.as_ref().map(|edge| &edge.field);
            let path = format!("{path}{}.", field.map_or("", String::as_str));
            self.check_names(*child, &path)?;
        }
        Ok(())
    }

    /// The tables that it is made of.
    pub(crate) fn tables(&self) -> BTreeSet<&str> {
        self.nodes.iter().map(|node| node.table.as_str()).collect()
    }

    /// Whether rows of a table are part of it.
    pub(crate) fn has(&self, table: &str) -> bool {
        self.nodes.iter().any(|node| node.table == table)
    }

    /// The nodes of a table.
    pub(crate) fn nodes_of(&self, table: &str) -> impl Iterator<Item = (usize, &Node)> {
        let nodes = self.nodes.iter().enumerate();
        nodes.filter(move |(_, node)| node.table == table)
    }

    /// The columns of a table that must be there.
    pub(crate) fn used_columns(&self, table: &str) -> BTreeSet<&str> {
        let mut used: BTreeSet<&str> = BTreeSet::new();
        let linking = self.linking.get(table).into_iter().flatten();
        used.extend(linking.map(String::as_str));
        for (_, node) in self.nodes_of(table) {
            used.extend(node.fields.iter().map(|(_, column)| column.as_str()));
            let order_by = node.edge.as_ref().and_then(|edge| edge.order_by.as_ref());
            used.extend(order_by.map(|(column, _)| column.as_str()));
        }
        used
    }

    /// By what other rows find a row: one text for each of its linking columns that is not null.
    pub(crate) fn links_of(&self, table: &str, row: &Document) -> Vec<String> {
        let columns = self.linking.get(table).into_iter().flatten();
        columns
            .filter_map(|column| link(table, column, value_in(row, column)?))
            .collect()
    }
}

/// The value of a column, whose name the server may have had written without dots.
pub(crate) fn value_in<'r>(row: &'r Document, column: &str) -> Option<&'r Bson> {
    let written = || row.get(&*Names::WithoutDots.write(column));
    row.get(column).or_else(written)
}

/// What a row is found by that has `value` in a column; none for NULL.
pub(crate) fn link(table: &str, column: &str, value: &Bson) -> Option<String> {
    let value = match value {
        Bson::Null => return None,
        Bson::String(text) => text.clone(),
        Bson::Int32(number) => number.to_string(),
        Bson::Int64(number) => number.to_string(),
        Bson::Boolean(is_true) => is_true.to_string(),
        other => other.to_string(),
    };
    let value = match value.len() > LINK_BYTES_MAX {
        true => {
            let digest = openssl::sha::sha256(value.as_bytes());
            let hex = digest.iter().map(|byte| format!("{byte:02x}"));
            format!("sha256:{}", hex.collect::<String>())
        }
        false => value,
    };
    Some(prefix(table, column) + &value)
}

/// What the links of a column begin with. No two columns have the same.
pub(crate) fn prefix(table: &str, column: &str) -> String {
    format!("{table:?}.{column:?}=")
}

/// The links of `links` that are of a column, as those of another column.
pub(crate) fn translated<'l>(
    links: impl Iterator<Item = &'l String>,
    from: (&str, &str),
    to: (&str, &str),
) -> Vec<String> {
    let from = prefix(from.0, from.1);
    let to = prefix(to.0, to.1);
    let values = links.filter_map(|link| link.strip_prefix(&from));
    values.map(|value| format!("{to}{value}")).collect()
}

fn check_table(name: &str) -> std::result::Result<(), String> {
    let parts = name.split('.');
    match parts.clone().count() == 2 && parts.clone().all(|part| !part.is_empty()) {
        true => Ok(()),
        false if name.is_empty() => Err("schema.table is missing".into()),
        false => Err(format!("\"{name}\" is not schema.table")),
    }
}

fn columns_of(on: &str) -> Option<(&str, &str)> {
    let (column, parent_column) = on.split_once('=')?;
    let (column, parent_column) = (column.trim(), parent_column.trim());
    let is_name = |name: &str| !name.is_empty() && !name.contains('=');
    (is_name(column) && is_name(parent_column)).then_some((column, parent_column))
}

fn fields(table: &toml::Table) -> std::result::Result<Vec<(String, String)>, String> {
    let field = |(name, column): (&String, &toml::Value)| match column.as_str() {
        Some(column) if !column.is_empty() => Ok((name.clone(), column.to_owned())),
        _ => Err(format!("fields.{name}: the name of a column is missing")),
    };
    table.iter().map(field).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use mongodb::bson::doc;

    fn settings(text: &str) -> MongoViewSettings {
        toml::from_str(text).expect("settings")
    }

    const ORDERS: &str = r#"
        root = "public.orders"
        fields = { "orderId" = "id", "total" = "total_price" }
        join = [
          { table = "public.order_item", on = "order_id = id", as = "items", many = true, order_by = "-id", join = [
            { table = "public.product", on = "id = product_id", as = "product" } ] },
          { table = "public.customer", on = "id = customer_id", as = "customerRef", reference = "customers" },
        ]
    "#;

    #[test]
    fn a_plan_is_a_tree() {
        let plan = Plan::new(&settings(ORDERS)).unwrap();
        let tables: Vec<_> = plan.nodes.iter().map(|node| node.table.as_str()).collect();
        assert_eq!(
            tables,
            [
                "public.orders",
                "public.order_item",
                "public.product",
                "public.customer"
            ]
        );
        assert_eq!(plan.nodes[0].children, [1, 3]);
        let edge = plan.nodes[2].edge.as_ref().unwrap();
        assert_eq!(
            (edge.parent, &*edge.column, &*edge.parent_column),
            (1, "id", "product_id")
        );
        let used: Vec<_> = plan.used_columns("public.orders").into_iter().collect();
        assert_eq!(used, ["customer_id", "id", "total_price"]);
    }

    #[test]
    fn what_cannot_be_meant_is_told() {
        let wrong = |from: &str, to: &str| {
            let text = ORDERS.replace(from, to);
            Plan::new(&settings(&text)).unwrap_err()
        };
        assert!(wrong("order_id = id", "order_id").contains("join[0].on: \"order_id\""));
        assert!(wrong("public.product", "product").contains("join[0].join[0].table"));
        assert!(wrong("\"public.orders\"", "\"\"").contains("root: schema.table is missing"));
        assert!(wrong("as = \"items\"", "as = \"total\"").contains("two fields are called total"));
        assert!(wrong("\"total\" =", "\"_version\" =").contains("_version is the view's own"));
        assert!(wrong("as = \"items\", ", "").contains("join[0].as"));
        assert!(
            wrong(
                "reference = \"customers\"",
                "reference = \"c\", fields = {a = \"b\"}"
            )
            .contains("join[1].reference")
        );
    }

    #[test]
    fn equal_values_have_equal_links() {
        let of = |value: Bson| link("public.t", "a", &value);
        assert_eq!(of(Bson::Int32(5)), of(Bson::Int64(5)));
        assert_eq!(of(Bson::Int32(5)), of(Bson::String("5".into())));
        assert_eq!(of(Bson::Null), None);
        assert!(of(Bson::String("x".repeat(10_000))).unwrap().len() < 120);
        let plan = Plan::new(&settings(ORDERS)).unwrap();
        let links = plan.links_of(
            "public.orders",
            &doc! { "id": 1, "customer_id": Bson::Null },
        );
        assert_eq!(
            links,
            [link("public.orders", "id", &Bson::Int32(1)).unwrap()]
        );
        let children = translated(
            links.iter(),
            ("public.orders", "id"),
            ("public.order_item", "order_id"),
        );
        let child = link("public.order_item", "order_id", &Bson::Int32(1));
        assert_eq!(children, [child.unwrap()]);
    }
}
