//! Options stay until they are changed; those that make no sense are refused.

use pg_cdc_tests::refusal;
use postgres::Client;

use super::database;
use super::masks::give_mask_key;

#[test]
fn options_stay_until_they_are_changed_and_can_be_seen() {
    let database = database("kept");
    let mut client = database.source();
    give_mask_key(&mut client);
    client
        .batch_execute(
            r#"CREATE TABLE t (id int PRIMARY KEY, "a,b" text, c int);
             SELECT cdc_track('t', mask => '{"a,b": "truncate:2"}', filter => 'c > 0', operations => 'insert,update');
             SELECT cdc_track('t', exclude => '{c}');"#,
        )
        .expect("tracked twice");
    let definition = |client: &mut Client| -> String {
        client
            .query_one(
                "SELECT pg_get_triggerdef(oid) FROM pg_trigger WHERE tgname = '_cdc'",
                &[],
            )
            .expect("the trigger")
            .get(0)
    };
    let shown = definition(&mut client);
    for part in [
        "AFTER INSERT OR UPDATE",
        "'operations=insert,update'",
        "'exclude=c'",
        r"'mask=a\,b:truncate:2'",
        "'filter=c > 0'",
    ] {
        assert!(shown.contains(part), "{part} in {shown}");
    }
    client
        .batch_execute(
            "SELECT cdc_track('t', mask => '{}', filter => '', exclude => '{}', operations => '')",
        )
        .expect("taken away");
    let shown = definition(&mut client);
    for gone in ["mask=", "filter=", "exclude=", "operations="] {
        assert!(!shown.contains(gone), "{gone} in {shown}");
    }
}

#[test]
fn options_that_make_no_sense_are_refused() {
    let database = database("senseless");
    let mut client = database.source();
    client
        .batch_execute("CREATE TABLE t (id int PRIMARY KEY, name text); CREATE TABLE other (id int PRIMARY KEY); SELECT cdc_track('other'); CREATE TYPE unused AS ENUM ('a');
             CREATE TABLE bare (a int, b int)")
        .expect("tables");
    let nothing_left = "SELECT cdc_track('bare', exclude => '{a, b}')";
    refusal::coded(&mut client, nothing_left, "22023", "CDC0110");
    for (arguments, sqlstate, code) in [
        ("exclude => '{nam}'", "42703", "CDC0103"),
        (r#"mask => '{"nam": "redact"}'"#, "42703", "CDC0103"),
        ("include => '{id}', exclude => '{name}'", "22023", "CDC0110"),
        ("exclude => '{id}'", "22023", "CDC0110"),
        (r#"mask => '{"id": "redact"}'"#, "22023", "CDC0110"),
        (r#"mask => '{"name": "scramble"}'"#, "22023", "CDC0110"),
        (r#"mask => '{"name": 1}'"#, "22023", "CDC0110"),
        (
            r#"mask => '{"name": "redact"}', exclude => '{name}'"#,
            "22023",
            "CDC0110",
        ),
        ("operations => 'upsert'", "22023", "CDC0110"),
        ("operations => 'truncate'", "22023", "CDC0110"),
        ("origin => 'remote'", "22023", "CDC0110"),
        (
            r#"topics => '{"merge": "senseless.x"}'"#,
            "22023",
            "CDC0110",
        ),
        (
            r#"topic => 'senseless.a', topics => '{"insert": "senseless.b"}'"#,
            "22023",
            "CDC0110",
        ),
        (
            r#"topics => '{"insert": "senseless.public.other"}'"#,
            "42710",
            "CDC0106",
        ),
        ("filter => 'id > '", "0A000", "CDC0111"),
        ("filter => 'nam = 1'", "0A000", "CDC0111"),
        ("filter => 'id'", "0A000", "CDC0111"),
        ("filter => 'id = (SELECT 1)'", "0A000", "CDC0111"),
        ("filter => 'random() > 0.5'", "0A000", "CDC0111"),
        ("filter => 'true) ORDER BY (1'", "0A000", "CDC0111"),
        ("filter => 'true), (false'", "0A000", "CDC0111"),
        ("filter => 'xmin = 1'", "0A000", "CDC0111"),
        ("filter => 'public.t.id = 1'", "0A000", "CDC0111"),
        (
            "filter => $$'a'::public.unused IS NULL$$",
            "0A000",
            "CDC0111",
        ),
        ("filter => 'count(id) > 0'", "0A000", "CDC0111"),
    ] {
        refusal::coded(
            &mut client,
            &format!("SELECT cdc_track('t', {arguments})"),
            sqlstate,
            code,
        );
    }
    let triggers = client.query(
        "SELECT 1 FROM pg_trigger WHERE tgrelid = 't'::regclass",
        &[],
    );
    assert!(
        triggers.expect("triggers").is_empty(),
        "what was refused left no trigger"
    );
}
