//! Programs of `pgrx-tests/readers`: they read topics with what other people made.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::parts::{self, Part};

/// A program in one file of Java, compiled as it starts, with the classes of `part`.
pub fn java(part: Part, program: &str, arguments: &[&str]) -> Command {
    let mut java = Command::new("java");
    java.args(["-Xmx1g", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"])
        .arg("-Dorg.slf4j.simpleLogger.defaultLogLevel=warn")
        .arg("-cp")
        .arg(part.class_path())
        .arg(source(&format!("{program}.java")))
        .args(arguments);
    java
}

/// A script for Node.js, with kafkajs.
pub fn kafkajs(script: &str, arguments: &[&str]) -> Command {
    let mut node = Command::new("node");
    node.env("NODE_PATH", parts::kafkajs_modules())
        .arg(source(script))
        .args(arguments);
    node
}

fn source(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("readers")
        .join(file)
}
