//! The test bed: real PostgreSQL, Kafka, FerretDB and companion-sink, started for a test, the demo or a benchmark.
//!
//! A test usually needs three lines:
//!
//! ```no_run
//! let bed = pg_cdc_tests::TestBed::shared();
//! let shop = bed.database("shop");
//! shop.source().batch_execute("CREATE TABLE t (id int PRIMARY KEY); SELECT cdc_track('t')").expect("track t");
//! ```
//!
//! | module | does |
//! |---|---|
//! | [`bed`] | puts everything together; one bed per test binary, one database per test |
//! | [`postgres`], [`kafka`], [`ferretdb`], [`companion_sink`] | one server each: start, stop, kill, freeze, log |
//! | [`secure_listeners`] | TLS and SASL for Kafka; [`certificates`] and [`token_issuer`] make what they need |
//! | [`debezium`], [`debezium_sink`] | the reference for events that its readers parse, and for speed; both run in a [`connect_worker`] |
//! | [`hand_made_events`], [`plain_events`] | events that a test makes itself, for sinks without a source; those of other producers |
//! | [`sender_status`] | what `cdc_status()` says, and waiting for it |
//! | [`webhook_receiver`], [`request_server`], [`mail_server`] | receivers of requests and mails, which misbehave as they are told |
//! | [`topic`], [`topic_admin`] | reads topics whole; makes, changes and deletes them |
//! | [`reader`] | programs that read topics with what other people made |
//! | [`topic_log`] | how a broker keeps a topic on its disk |
//! | [`pgbench`] | load for a server |
//! | [`prefix_rule`], [`replica`], [`history`] | what must hold in the topics, in the replica, in the history |
//! | [`statements`], [`refusal`] | statements sent one by one; those that must fail with a coded message |
//! | [`wait`] | waits for conditions, never for a time |
//! | [`c_library`] | small C libraries for the server |
//! | [`parts`] | where the real parts are on this machine |
//! | [`printing_command`] | commands that go on and print what they see |
//! | [`process`], [`port`] | child processes that end with the test; free ports |
//!
//! The functions here panic with what they saw: they are made for tests, where that is the failure message.

mod applied_offsets;
pub mod bed;
pub mod c_library;
pub mod hand_made_events;
pub mod history;
pub mod pgbench;
pub mod prefix_rule;
pub mod reader;
pub mod refusal;
pub mod replica;
pub mod sender_status;
pub mod servers;
pub mod statements;
pub mod topics;
pub mod wait;

pub use bed::{Database, TestBed};
pub use servers::receivers::{mail_server, request_server, webhook_receiver};
pub use servers::{
    certificates, companion_sink, connect_worker, debezium, debezium_sink, ferretdb, kafka, parts,
    port, postgres, process, secure_listeners, token_issuer,
};
pub use topics::{plain_events, printing_command, topic, topic_admin, topic_log};
pub use wait::wait_until;
