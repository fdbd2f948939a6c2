//! Small C libraries for the server, made of one file with the server's own headers.

use std::path::Path;
use std::process::Command;

use crate::parts;

/// Compiles `source` into `library`.
///
/// # Panics
/// When the compiler or the headers are missing, or refuse it.
pub fn compile(source: &Path, library: &Path) {
    let headers = Command::new(parts::postgres_bin().join("pg_config"))
        .arg("--includedir-server")
        .output()
        .expect("pg_config");
    let headers = String::from_utf8(headers.stdout).expect("a path");
    let compiled = Command::new("cc")
        .args(["-O2", "-shared", "-fPIC", "-I", headers.trim()])
        .arg(source)
        .arg("-o")
        .arg(library)
        .status();
    assert!(
        compiled.expect("cc").success(),
        "cc cannot compile {}",
        source.display()
    );
}
