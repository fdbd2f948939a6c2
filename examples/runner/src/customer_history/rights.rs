//! Who may do what.

use pg_cdc_tests::refusal;

use super::system::CustomerHistory;

/// More than rows of customers is refused.
pub(super) fn of_the_service(example: &CustomerHistory) -> String {
    let source = example.place.bed().source();
    let mut role = source.connect_as("customer_service", example.database.name());
    let refused = [
        "TRUNCATE customer",
        "ALTER TABLE customer DISABLE TRIGGER ALL",
        "ALTER TABLE customer ADD note text",
        "DROP TABLE customer",
        "INSERT INTO customer (name, email, created_at) VALUES ('x', 'x@example.org', now())",
        "INSERT INTO customer (id, name, email) OVERRIDING SYSTEM VALUE VALUES (1, 'x', 'x@example.org')",
        "UPDATE customer SET id = DEFAULT",
        "UPDATE customer SET created_at = now()",
        "CREATE TABLE mine (a int)",
        "CREATE TRIGGER mine BEFORE INSERT ON customer EXECUTE FUNCTION _cdc()",
        "SELECT cdc_untrack('customer')",
        "SELECT cdc_track('customer', topic => 'mine')",
        "SELECT cdc_emit('customer_events', '{}', '{}')",
        "SELECT * FROM cdc_status()",
        "SET ROLE crm_owner",
        "SET session_replication_role = replica",
        "SET ROLE cdc_admin",
        "COPY customer TO PROGRAM 'cat'",
    ];
    for statement in refused {
        let error = refusal::of(&mut role, statement);
        let code = error.code().code();
        assert!(
            matches!(code, "42501" | "428C9" | "42883"),
            "{statement}: {error:?}"
        );
    }
    format!("{} statements refused", refused.len())
}

/// The table's owner chooses among the topics of the database; this one is an administrator's choice.
pub(super) fn to_the_topic(example: &CustomerHistory) -> String {
    let mut owner = example.database.source();
    let become_owner = "SET ROLE crm_owner; CREATE TABLE visit (id int PRIMARY KEY)";
    owner.batch_execute(become_owner).expect(become_owner);
    let statement = "SELECT cdc_track('visit', topic => 'visit_events')";
    let error = refusal::coded(&mut owner, statement, "42501", "CDC0102");
    owner.batch_execute("DROP TABLE visit").expect("drop");
    error.message().to_owned()
}
