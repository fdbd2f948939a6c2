//! A partitioned table is one table to those who read: the root's name, topic and columns, whatever partition a row is in.

mod contents;
mod owners;
mod rows;
mod triggers;

use pg_cdc_tests::topic::Record;
use pg_cdc_tests::{Database, TestBed};

fn database(name: &str) -> Database<'static> {
    TestBed::shared().database(name)
}

/// Operation and key of a row, `t` for a truncate, the type of a definition's change and whether contents changed.
fn shown(events: &[Record]) -> Vec<String> {
    let show = |event: &Record| match event.op() {
        "schema" => {
            let change = event.json();
            let kind = change["type"].as_str().expect("a type").to_owned();
            if change["contents_changed"] == true {
                format!("{kind}!")
            } else {
                kind
            }
        }
        "t" => "t".to_owned(),
        op => format!("{op} {}", event.key_text()),
    };
    events.iter().map(show).collect()
}

const TABLE: &str = "
    CREATE TABLE t (id int, region text, note text, PRIMARY KEY (id, region)) PARTITION BY LIST (region);
    CREATE TABLE t_ch PARTITION OF t FOR VALUES IN ('CH');
    CREATE TABLE t_eu PARTITION OF t FOR VALUES IN ('DE', 'FR') PARTITION BY RANGE (id);
    CREATE TABLE t_eu_low PARTITION OF t_eu FOR VALUES FROM (0) TO (100);
    CREATE TABLE t_other (gone int, note text, id int NOT NULL, region text NOT NULL);
    ALTER TABLE t_other DROP gone;
    ALTER TABLE t ATTACH PARTITION t_other DEFAULT;";
