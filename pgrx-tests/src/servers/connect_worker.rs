//! Kafka Connect's standalone worker: a Java process that runs connectors.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use crate::kafka::Kafka;
use crate::parts::Part;
use crate::process::{self, Process};
use crate::{port, wait_until};

/// How long a worker or a task may take to start.
const TIMEOUT: Duration = Duration::from_secs(120);

/// A worker. Dropping it kills it.
#[derive(Debug)]
pub struct ConnectWorker {
    process: Process,
    log: PathBuf,
    rest_port: u16,
}

impl ConnectWorker {
    /// Starts a worker in `folder` (created) with the classes of `part`, and the connectors whose properties are in the files `connectors`.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn start(
        name: &str,
        part: Part,
        folder: &Path,
        kafka: &Kafka,
        java_options: &[&str],
        settings: &[(&str, &str)],
        connectors: &[&Path],
    ) -> ConnectWorker {
        std::fs::create_dir_all(folder)
            .unwrap_or_else(|e| panic!("cannot make {}: {e}", folder.display()));
        let (worker, rest_port) = (folder.join("worker.properties"), port::free());
        let places = [
            ("bootstrap.servers", kafka.brokers()),
            (
                "offset.storage.file.filename",
                folder.join("offsets").display().to_string(),
            ),
            ("listeners", format!("http://127.0.0.1:{rest_port}")),
        ];
        write_properties(&worker, settings, &places);
        let mut java = Command::new("java");
        java.args(java_options)
            .arg("-Dorg.slf4j.simpleLogger.defaultLogLevel=warn")
            // What it unpacks and, killed, leaves behind goes with the folder.
            .arg(format!("-Djava.io.tmpdir={}", folder.display()))
            .arg("-cp")
            .arg(part.class_path())
            .arg("org.apache.kafka.connect.cli.ConnectStandalone")
            .arg(&worker)
            .args(connectors);
        let log = folder.join("worker.log");
        let process = Process::start(name, java, None, &log, libc::SIGKILL);
        ConnectWorker {
            process,
            log,
            rest_port,
        }
    }

    /// Waits until it answers: without connectors, nothing else says that it is up.
    ///
    /// # Panics
    /// When it ends instead, or does not answer in time.
    pub fn wait_until_up(&mut self) {
        wait_until("Kafka Connect to answer", TIMEOUT, || {
            self.check_running().unwrap_or_else(|e| panic!("{e}"));
            self.request("GET", "/connectors", None)
        });
    }

    /// Starts a connector, and waits until one of its tasks runs.
    ///
    /// # Panics
    /// When it fails instead, or does not run in time.
    pub fn add(&self, connector: &str, config: &Value) {
        let order = json!({"name": connector, "config": config});
        self.request("POST", "/connectors", Some(&order))
            .unwrap_or_else(|e| panic!("{e}"));
        wait_until("a task of the connector to run", TIMEOUT, || {
            let tasks = self.tasks(connector)?;
            if tasks.iter().any(|task| task["state"] == "RUNNING") {
                Ok(())
            } else {
                Err(format!("{tasks:?}"))
            }
        });
    }

    /// Ends a connector.
    ///
    /// # Panics
    /// When there is none of that name.
    pub fn remove(&self, connector: &str) {
        self.request("DELETE", &format!("/connectors/{connector}"), None)
            .unwrap_or_else(|e| panic!("{e}"));
    }

    /// Fails when a task of a connector has failed.
    ///
    /// # Errors
    /// Its tasks, as the worker tells about them, or why that cannot be asked.
    pub fn check(&self, connector: &str) -> Result<(), String> {
        let tasks = self.tasks(connector)?;
        if tasks.iter().any(|task| task["state"] == "FAILED") {
            return Err(format!("{tasks:?}\n{}", self.log_tail()));
        }
        Ok(())
    }

    fn tasks(&self, connector: &str) -> Result<Vec<Value>, String> {
        let path = format!("/connectors/{connector}/status");
        let status = self.request("GET", &path, None)?;
        Ok(status["tasks"].as_array().cloned().unwrap_or_default())
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Freezes it (SIGSTOP): it keeps its connections and what Java has compiled, and takes no time.
    pub fn freeze(&self) {
        self.process.signal(libc::SIGSTOP);
    }

    /// Ends [`ConnectWorker::freeze`].
    pub fn thaw(&self) {
        self.process.signal(libc::SIGCONT);
    }

    /// Fails when it has ended.
    ///
    /// # Errors
    /// How it ended, and the end of its log.
    pub fn check_running(&mut self) -> Result<(), String> {
        self.process.check_running()
    }

    /// The end of its log.
    pub fn log_tail(&self) -> String {
        process::log_tail(&self.log, 20)
    }

    /// Sends a request to its REST interface, with a body if there is one.
    ///
    /// # Errors
    /// What it answered unless that is success, or why it could not be asked.
    pub fn request(&self, method: &str, path: &str, body: Option<&Value>) -> Result<Value, String> {
        let body = body.map(Value::to_string).unwrap_or_default();
        let mut answer = String::new();
        TcpStream::connect(("127.0.0.1", self.rest_port))
            .and_then(|mut stream| {
                // HTTP 1.0, so that the answer comes in one piece and ends with the connection.
                write!(
                    stream,
                    "{method} {path} HTTP/1.0\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
                    body.len()
                )?;
                stream.read_to_string(&mut answer)
            })
            .map_err(|e| format!("{method} {path}: {e}"))?;
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
        let status = head.split(' ').nth(1).unwrap_or_default();
        if !status.starts_with('2') {
            return Err(format!("{method} {path}: {answer}"));
        }
        Ok(serde_json::from_str(body).unwrap_or(Value::Null))
    }
}

/// Writes a file of Java's properties.
///
/// # Panics
/// When that is not possible.
pub fn write_properties(file: &Path, settings: &[(&str, &str)], places: &[(&str, String)]) {
    let settings = settings
        .iter()
        .map(|(name, value)| format!("{name}={value}\n"));
    let places = places
        .iter()
        .map(|(name, value)| format!("{name}={value}\n"));
    let text: String = settings.chain(places).collect();
    std::fs::write(file, text).unwrap_or_else(|e| panic!("cannot write {}: {e}", file.display()));
}
