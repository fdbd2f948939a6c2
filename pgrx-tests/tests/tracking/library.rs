//! What the extension's library shows to the server that loads it, and to the server's other libraries.

use std::path::PathBuf;
use std::process::Command;

use pg_cdc_tests::{TestBed, parts};

fn library() -> PathBuf {
    let folder = Command::new(parts::postgres_bin().join("pg_config"))
        .arg("--pkglibdir")
        .output()
        .expect("pg_config");
    PathBuf::from(String::from_utf8(folder.stdout).expect("a path").trim()).join("pg_cdc.so")
}

/// The names that `nm` lists.
fn symbols(options: &[&str]) -> Vec<String> {
    let listed = Command::new("nm")
        .args(options)
        .args(["--format=just-symbols"])
        .arg(library())
        .output()
        .expect("nm, of binutils");
    assert!(listed.status.success(), "{listed:?}");
    let text = String::from_utf8(listed.stdout).expect("names");
    // Undefined symbols carry the version of the library that they are looked for in.
    let name = |line: &str| line.split('@').next().unwrap_or_default().to_owned();
    text.lines().map(name).collect()
}

#[test]
fn nothing_of_the_bundled_libraries_is_exported() {
    // What is looked for is there, and hidden: librdkafka and zstd are bundled, OpenSSL is the system's, as it is
    // PostgreSQL's.
    let all = symbols(&["--defined-only"]);
    for bundled in ["rd_kafka_new", "ZSTD_compress", "LZ4_compress_default"] {
        assert!(
            all.iter().any(|name| name.ends_with(bundled)),
            "{bundled} is not in the library: look for another name"
        );
    }
    let needed = symbols(&["--dynamic", "--undefined-only"]);
    assert!(needed.iter().any(|name| name == "SSL_new"), "{needed:?}");
    assert!(
        !all.iter().any(|name| name == "SSL_new"),
        "a second OpenSSL"
    );

    // Exported is what PostgreSQL calls by name.
    let mut called = vec![
        "Pg_magic_func".to_owned(),
        "_PG_init".to_owned(),
        "pg_cdc_sender_main".to_owned(),
        "pg_cdc_snapshot_main".to_owned(),
    ];
    let functions = TestBed::shared()
        .database_without_extension("library")
        .source()
        .batch_execute("CREATE EXTENSION pg_cdc");
    functions.expect("CREATE EXTENSION");
    let rows = TestBed::shared().source().connect("library").query(
        "SELECT DISTINCT prosrc FROM pg_proc WHERE probin = '$libdir/pg_cdc'",
        &[],
    );
    for row in rows.expect("pg_proc") {
        let name: String = row.get(0);
        called.push(format!("pg_finfo_{name}"));
        called.push(name);
    }
    assert!(called.len() > 20, "{called:?}");
    let mut exported = symbols(&["--dynamic", "--defined-only"]);
    exported.sort();
    called.sort();
    assert_eq!(exported, called);
}
