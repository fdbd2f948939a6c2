//! The real companion-sink binary, with the history in FerretDB and the replica in a PostgreSQL database.

mod plan;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Output, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use mongodb::bson::{Document, doc};
use serde_json::Value;

use crate::applied_offsets::AppliedOffsets;
use crate::kafka::Kafka;
use crate::process::{self, Process};
use crate::{parts, topic, wait_until};

pub use plan::Plan;

const TIMEOUT: Duration = Duration::from_secs(60);
/// How long the sinks may take to apply what is in Kafka.
const APPLY_TIMEOUT: Duration = Duration::from_secs(600);

/// A companion-sink. Dropping it kills it.
#[derive(Debug)]
pub struct CompanionSink {
    folder: PathBuf,
    plan: Option<Plan>,
    http_port: u16,
    variables: Vec<(String, String)>,
    process: Mutex<Option<Process>>,
}

impl CompanionSink {
    /// Writes the configuration into `folder` (created), without starting.
    ///
    /// # Panics
    /// When the file cannot be written.
    pub fn create(folder: &Path, plan: Plan) -> CompanionSink {
        std::fs::create_dir_all(folder)
            .unwrap_or_else(|e| panic!("cannot make {}: {e}", folder.display()));
        let sink = CompanionSink {
            folder: folder.to_owned(),
            http_port: plan.http_port,
            plan: None,
            variables: Vec::new(),
            process: Mutex::new(None),
        };
        std::fs::write(sink.config_file(), plan.toml()).expect("write companion-sink.toml");
        CompanionSink {
            plan: Some(plan),
            ..sink
        }
    }

    /// One with a configuration that is there: `folder` (created) gets the files of `from`, one of which is
    /// companion-sink.toml. The further `variables` and the port of its HTTP interface win over what is written there. It runs in
    /// `folder`, where it finds the files that are named there.
    ///
    /// # Panics
    /// When a file cannot be copied.
    pub fn copy_of(
        folder: &Path,
        from: &Path,
        variables: &[(&str, &str)],
        http_port: u16,
    ) -> CompanionSink {
        std::fs::create_dir_all(folder)
            .unwrap_or_else(|e| panic!("cannot make {}: {e}", folder.display()));
        let files = std::fs::read_dir(from).unwrap_or_else(|e| panic!("{}: {e}", from.display()));
        for file in files {
            let file = file.expect("a file").path();
            let name = file.file_name().expect("its name");
            std::fs::copy(&file, folder.join(name)).expect("a copy");
        }
        let mut variables: Vec<_> = variables
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        let listen = format!("127.0.0.1:{http_port}");
        variables.push(("COMPANION_SINK__HTTP__LISTEN".to_owned(), listen));
        CompanionSink {
            folder: folder.to_owned(),
            plan: None,
            http_port,
            variables,
            process: Mutex::new(None),
        }
    }

    fn plan(&self) -> &Plan {
        self.plan.as_ref().expect("one that was made of a plan")
    }

    /// Starts `companion-sink run` and waits until it listens on its HTTP port.
    ///
    /// # Panics
    /// When it ends instead, or is not ready in time; the message has the end of its log.
    pub fn start(&self) {
        self.start_only(&[]);
    }

    /// As [`CompanionSink::start`], with the sinks named (`history`, `replica`) instead of both.
    ///
    /// # Panics
    /// As that does.
    pub fn start_only(&self, sinks: &[&str]) {
        let mut slot = self.process.lock().expect("companion-sink's process");
        assert!(slot.is_none(), "companion-sink runs already");
        let mut command = self.command();
        command.arg("run");
        command.args(sinks.iter().flat_map(|sink| ["--sink", sink]));
        let mut process = Process::start(
            "companion-sink",
            command,
            None,
            &self.log_file(),
            libc::SIGTERM,
        );
        wait_until("companion-sink to listen", TIMEOUT, || {
            process.check_running().unwrap_or_else(|e| panic!("{e}"));
            std::net::TcpStream::connect(("127.0.0.1", self.http_port)).map_err(|e| e.to_string())
        });
        *slot = Some(process);
    }

    /// Stops it in an orderly way (SIGTERM) and says how it ended; `None` if it did not run.
    ///
    /// # Panics
    /// When it does not end in time.
    pub fn stop(&self) -> Option<ExitStatus> {
        let process = self
            .process
            .lock()
            .expect("companion-sink's process")
            .take();
        process.map(|process| process.stop(libc::SIGTERM, TIMEOUT))
    }

    /// Has it read its configuration again (SIGHUP).
    ///
    /// # Panics
    /// When it does not run.
    pub fn reload(&self) {
        process::send_signal(self.pid(), libc::SIGHUP);
    }

    /// Kills it with SIGKILL.
    ///
    /// # Panics
    /// When it does not run.
    pub fn kill(&self) {
        let process = self
            .process
            .lock()
            .expect("companion-sink's process")
            .take();
        process
            .expect("companion-sink runs")
            .stop(libc::SIGKILL, TIMEOUT);
    }

    /// The process id.
    ///
    /// # Panics
    /// When it does not run.
    pub fn pid(&self) -> u32 {
        self.process
            .lock()
            .expect("companion-sink's process")
            .as_ref()
            .expect("companion-sink runs")
            .pid()
    }

    /// Runs another of its commands, such as `history customer 42`, with the same configuration; returns its output.
    ///
    /// # Panics
    /// When it fails, with what it printed.
    pub fn run_command(&self, arguments: &[&str]) -> String {
        let mut command = self.command();
        command.args(arguments);
        process::run(command, None)
    }

    /// As [`CompanionSink::run_command`], whether it succeeds or not.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn try_command(&self, arguments: &[&str]) -> Output {
        let mut command = self.command();
        command.args(arguments).stdin(Stdio::null());
        command
            .output()
            .unwrap_or_else(|e| panic!("cannot run {command:?}: {e}"))
    }

    /// Starts another of its commands; what it prints goes to the log.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn start_command(&self, arguments: &[&str]) -> Process {
        let mut command = self.command();
        command.args(arguments);
        let log = self.log_file();
        Process::start(
            "companion-sink's command",
            command,
            None,
            &log,
            libc::SIGKILL,
        )
    }

    /// Its address.
    pub fn http_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.http_port)
    }

    /// What it answers over HTTP, headers included, to who has the token that it made itself.
    ///
    /// # Panics
    /// When it does not answer.
    pub fn get(&self, path: &str) -> String {
        self.get_as(path, &self.own_token())
    }

    /// The token that it made itself; empty where it has made none.
    pub fn own_token(&self) -> String {
        let file = self.config_file().with_extension("token");
        let token = std::fs::read_to_string(file).unwrap_or_default();
        token.trim().to_owned()
    }

    /// As [`CompanionSink::get`], with a token.
    pub fn get_as(&self, path: &str, token: &str) -> String {
        self.try_get_as(path, token).expect("an answer")
    }

    /// As [`CompanionSink::get_as`], of one that may be closing its connections.
    ///
    /// # Errors
    /// When it closes this one.
    pub fn try_get_as(&self, path: &str, token: &str) -> std::io::Result<String> {
        self.try_ask(&format!(
            "GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\nAuthorization: Bearer {token}\r\n\r\n"
        ))
    }

    /// What `/v1/status` says of a sink: `history` or `replica`.
    ///
    /// # Panics
    /// When it does not answer.
    pub fn state_of(&self, sink: &str) -> Value {
        self.get_json("/v1/status")["sinks"][sink].clone()
    }

    /// What it answers to who has the token that it made itself; problems as well.
    ///
    /// # Panics
    /// When it does not answer with JSON.
    pub fn get_json(&self, path: &str) -> Value {
        let answer = self.get(path);
        let (_, body) = answer.split_once("\r\n\r\n").expect("a body");
        serde_json::from_str(body).unwrap_or_else(|_| panic!("{path}: {answer}"))
    }

    /// What `companion-sink history` says, whether it succeeds or not.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn ask_history(&self, arguments: &[&str]) -> Output {
        self.try_command(&[&["history"], arguments].concat())
    }

    /// The objects of an answer of the history that there is.
    ///
    /// # Panics
    /// When there is none.
    pub fn find_in_history(&self, arguments: &[&str]) -> Vec<Value> {
        self.objects(&[&["history"], arguments].concat())
    }

    /// The objects of an answer of another command that finds something, such as `topic tail shop.public.customer`.
    ///
    /// # Panics
    /// When it finds nothing.
    pub fn objects(&self, arguments: &[&str]) -> Vec<Value> {
        let output = self.try_command(arguments);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {errors}");
        let text = String::from_utf8(output.stdout).expect("UTF-8");
        let lines = text.lines();
        lines
            .map(|line| serde_json::from_str(line).expect("an object"))
            .collect()
    }

    /// Waits until the history, asked for `table`, says that it has everything up to this LSN, which has 16 hexadecimal digits.
    ///
    /// # Panics
    /// When it does not come to that.
    pub fn wait_until_history_is_complete_up_to(&self, sent_lsn: &str, table: &str) {
        wait_until("the history to be complete", 2 * TIMEOUT, || {
            let page = self.get(&format!("/v1/history/{table}?limit=1"));
            let (_, body) = page.split_once("\r\n\r\n").expect("a body");
            let page: Value = serde_json::from_str(body).unwrap_or_default();
            let complete = page["complete_up_to"]["version"].as_str();
            let lsn = complete.unwrap_or_default().split('-').nth(2);
            match lsn.is_some_and(|lsn| lsn >= sent_lsn) {
                true => Ok(()),
                false => Err(body.to_owned()),
            }
        });
    }

    /// Waits until its log has a text.
    ///
    /// # Panics
    /// When it does not come to that, with the log.
    pub fn wait_for_log(&self, text: &str) {
        wait_until("the log", TIMEOUT, || {
            let log = std::fs::read_to_string(self.log_file()).expect("the log");
            if log.contains(text) { Ok(()) } else { Err(log) }
        });
    }

    /// What it answers to these bytes.
    ///
    /// # Panics
    /// When it does not answer.
    pub fn ask(&self, request: &str) -> String {
        self.try_ask(request).expect("an answer")
    }

    fn try_ask(&self, request: &str) -> std::io::Result<String> {
        use std::io::{Read, Write};
        let mut stream = std::net::TcpStream::connect(("127.0.0.1", self.http_port))?;
        stream.write_all(request.as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    }

    /// What it answers to a POST with further `headers` (each `Name: value`), headers included.
    ///
    /// # Panics
    /// When it does not answer.
    pub fn post(&self, path: &str, headers: &[&str], body: &str) -> String {
        let headers: String = headers.iter().map(|line| format!("{line}\r\n")).collect();
        self.ask(&format!(
            "POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{}\r\nConnection: close\r\nAuthorization: Bearer {}\r\nContent-Length: {}\r\n{headers}\r\n{body}",
            self.http_port,
            self.own_token(),
            body.len()
        ))
    }

    /// The configuration file.
    pub fn config_file(&self) -> PathBuf {
        self.folder.join("companion-sink.toml")
    }

    /// The file that has its output.
    pub fn log_file(&self) -> PathBuf {
        self.folder.join("companion-sink.log")
    }

    /// Waits until both sinks have applied all that is in `topics` now.
    ///
    /// # Panics
    /// After ten minutes, with what is missing and the end of companion-sink's log.
    pub fn wait_until_applied(&self, kafka: &Kafka, topics: &[String]) {
        self.wait_until_sink_applied("history", kafka, topics);
        self.wait_until_sink_applied("replica", kafka, topics);
    }

    /// As [`CompanionSink::wait_until_applied`], for one sink: `history` or `replica`.
    pub fn wait_until_sink_applied(&self, sink: &str, kafka: &Kafka, topics: &[String]) {
        let plan = self.plan();
        let history = (&*plan.mongo_url, &*plan.mongo_database);
        let mut applied = AppliedOffsets::of(&plan.name, history, &plan.replica_url, sink);
        for topic in topics {
            let ends =
                topic::offsets(kafka, topic).unwrap_or_else(|| panic!("there is no topic {topic}"));
            let partitions = ends.len() as i32;
            for (partition, offsets) in ends.into_iter().filter(|(_, offsets)| !offsets.is_empty())
            {
                let what = format!(
                    "sink {sink} to apply {topic}, partition {partition}, up to {}",
                    offsets.end
                );
                wait_until(&what, APPLY_TIMEOUT, || {
                    let (next, _) = applied.position(topic, partition)?;
                    if next >= offsets.end {
                        return Ok(());
                    }
                    self.check_running()?;
                    Err(format!(
                        "{next}. Its log ends:\n{}",
                        process::log_tail(&self.log_file(), 15)
                    ))
                });
            }
            let prefix = topic.split('.').next().unwrap_or_default();
            let control = topic::read_control(kafka, prefix, topic);
            // A snapshot that is for some sinks moves the others nowhere.
            let control = control.iter().filter(|r| r.header("cdc.sinks").is_none());
            let Some(newest) = control.map(topic::Record::version).max() else {
                continue;
            };
            let what = format!("sink {sink} to do control event {newest} about {topic}");
            wait_until(&what, APPLY_TIMEOUT, || {
                let Err(seen) = applied.has_done(topic, partitions, newest) else {
                    return Ok(());
                };
                self.check_running()?;
                let log = process::log_tail(&self.log_file(), 15);
                Err(format!("{seen}. Its log ends:\n{log}"))
            });
        }
    }

    /// Has the history read a partition of its topics from the beginning again.
    ///
    /// # Panics
    /// When companion-sink runs, or the history knows no such partition.
    pub fn rewind_history(&self, partition: i32) {
        let process = self.process.lock().expect("companion-sink's process");
        assert!(process.is_none(), "companion-sink runs");
        let client = mongodb::sync::Client::with_uri_str(&self.plan().mongo_url);
        let database = client
            .expect("a MongoDB client")
            .database(&self.plan().mongo_database);
        let updated = database
            .collection::<Document>("companion_offsets")
            .update_many(
                doc! {"_id.partition": partition},
                doc! {"$set": {"next_offset": 0_i64, "version": ""}},
            )
            .run()
            .expect("write companion_offsets");
        assert!(updated.matched_count > 0, "there is no {partition}");
    }

    fn check_running(&self) -> Result<(), String> {
        match &mut *self.process.lock().expect("companion-sink's process") {
            Some(process) => process.check_running(),
            None => Err("companion-sink does not run".to_owned()),
        }
    }

    /// The command with its configuration.
    pub fn command(&self) -> Command {
        let mut command = Command::new(parts::companion_sink());
        command.arg("--config").arg(self.config_file());
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        if self.plan.is_none() {
            command.current_dir(&self.folder);
        }
        command
    }
}
