//! One Kafka node of the bed: KRaft, broker and controller in one process.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};

use crate::parts::{self, Part};
use crate::process::{self, Process};
use crate::wait_until;

/// How long a broker may take to start or stop.
const TIMEOUT: Duration = Duration::from_secs(60);
/// How long a running broker may take to answer. Short: a broker that takes connections and is not ready yet is asked
/// again.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(500);
/// Any id will do where nobody compares them.
const CLUSTER_ID: &str = "pgCdcTestBedAAAAAAAAAA";

/// How Java runs it: a small broker starts fast.
pub const JAVA_OPTIONS: [&str; 3] = ["-Xmx2g", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"];

/// A Kafka broker. Dropping it kills it; its folder is the caller's.
#[derive(Debug)]
pub struct Kafka {
    folder: PathBuf,
    cluster_id: String,
    controller_port: u16,
    port: u16,
    process: Mutex<Option<Process>>,
}

impl Kafka {
    /// Makes a new one-node cluster in `folder` (created) without starting it. `settings` are added to
    /// `server.properties` and win over the bed's own; `@folder@`, `@port@` and `@controller_port@` stand for the node's.
    ///
    /// # Panics
    /// When its storage cannot be formatted.
    pub fn create(
        folder: &Path,
        port: u16,
        controller_port: u16,
        settings: &[(&str, &str)],
    ) -> Kafka {
        Kafka::create_cluster(CLUSTER_ID, folder, port, controller_port, settings)
    }

    /// As [`Kafka::create`], with a cluster id of its own: 22 characters of base64.
    ///
    /// # Panics
    /// When its storage cannot be formatted.
    pub fn create_cluster(
        cluster_id: &str,
        folder: &Path,
        port: u16,
        controller_port: u16,
        settings: &[(&str, &str)],
    ) -> Kafka {
        Kafka::node(cluster_id, folder, port, controller_port, settings)
    }

    /// Makes a further broker of this one's cluster, without starting it; the first node stays the only controller.
    ///
    /// # Panics
    /// When its storage cannot be formatted.
    pub fn join(&self, folder: &Path, port: u16, node_id: u32) -> Kafka {
        let plain = format!("PLAINTEXT://127.0.0.1:{port}");
        let settings = [
            ("process.roles", "broker"),
            ("node.id", &node_id.to_string()),
            ("listeners", &plain),
            ("advertised.listeners", &plain),
        ];
        Kafka::node(
            &self.cluster_id,
            folder,
            port,
            self.controller_port,
            &settings,
        )
    }

    fn node(
        cluster_id: &str,
        folder: &Path,
        port: u16,
        controller_port: u16,
        settings: &[(&str, &str)],
    ) -> Kafka {
        std::fs::create_dir_all(folder)
            .unwrap_or_else(|e| panic!("cannot make {}: {e}", folder.display()));
        let kafka = Kafka {
            folder: folder.to_owned(),
            cluster_id: cluster_id.to_owned(),
            controller_port,
            port,
            process: Mutex::new(None),
        };
        let mut properties = include_str!("../../parts/kafka/server.properties").to_owned();
        for (name, value) in settings {
            properties.push_str(&format!("{name}={value}\n"));
        }
        let properties = properties
            .replace("@folder@", &folder.display().to_string())
            .replace("@port@", &port.to_string())
            .replace("@controller_port@", &controller_port.to_string());
        std::fs::write(kafka.properties(), properties).expect("write server.properties");
        let mut format = kafka.java();
        format
            .args([
                "kafka.tools.StorageTool",
                "format",
                "--cluster-id",
                cluster_id,
                "--config",
            ])
            .arg(kafka.properties());
        process::run(format, None);
        kafka
    }

    /// Starts the broker and waits until it answers.
    ///
    /// # Panics
    /// When it ends instead, or is not ready in time; the message has the end of its log.
    pub fn start(&self) {
        let mut slot = self.process.lock().expect("the broker's process");
        assert!(slot.is_none(), "Kafka on port {} runs already", self.port);
        let mut broker = self.java();
        broker.arg("kafka.Kafka").arg(self.properties());
        let mut process = Process::start("Kafka", broker, None, &self.log_file(), libc::SIGKILL);
        wait_until("Kafka to answer", TIMEOUT, || {
            process.check_running().unwrap_or_else(|e| panic!("{e}"));
            self.check_answers()
        });
        *slot = Some(process);
    }

    /// Whether the broker answers at this moment.
    ///
    /// # Errors
    /// What librdkafka says.
    pub fn check_answers(&self) -> Result<(), String> {
        // librdkafka waits before it connects again to a broker that refused, so first see whether anybody listens.
        std::net::TcpStream::connect(("127.0.0.1", self.port)).map_err(|e| e.to_string())?;
        let client: BaseConsumer = self.client_config().create().map_err(|e| e.to_string())?;
        let metadata = client
            .fetch_metadata(None, ANSWER_TIMEOUT)
            .map_err(|e| e.to_string())?;
        if metadata.brokers().is_empty() {
            Err("no broker in the metadata".to_owned())
        } else {
            Ok(())
        }
    }

    /// Stops it in an orderly way (SIGTERM); nothing if it does not run.
    ///
    /// # Panics
    /// When it does not end in time.
    pub fn stop(&self) {
        if let Some(process) = self.take() {
            process.stop(libc::SIGTERM, TIMEOUT);
        }
    }

    /// Kills it with SIGKILL.
    ///
    /// # Panics
    /// When it does not run.
    pub fn kill(&self) {
        self.take()
            .expect("Kafka runs")
            .stop(libc::SIGKILL, TIMEOUT);
    }

    /// Kills it if it runs: nobody needs its data any more.
    pub(crate) fn discard(&self) {
        drop(self.take());
    }

    /// Stops it in an orderly way and starts it again on the same port and data.
    pub fn restart(&self) {
        self.stop();
        self.start();
    }

    /// Takes all records of a topic away from the broker, which is stopped: its disk lost them. The topic stays.
    ///
    /// # Panics
    /// When there is no such topic.
    pub fn lose_records(&self, topic: &str) {
        let mut partition = 0;
        while let Ok(files) = self.partition_folder(topic, partition).read_dir() {
            for file in files {
                let file = file.expect("a file of the partition").path();
                if !file.ends_with("partition.metadata") {
                    std::fs::remove_file(&file).expect("remove the file");
                }
            }
            partition += 1;
        }
        assert!(partition > 0, "no folder of {topic}");
    }

    /// The folder in which it keeps a partition.
    pub(crate) fn partition_folder(&self, topic: &str, partition: i32) -> PathBuf {
        self.folder.join(format!("data/{topic}-{partition}"))
    }

    /// Freezes it (SIGSTOP): connections stay open, nothing is answered.
    pub fn freeze(&self) {
        self.signal(libc::SIGSTOP);
    }

    /// Ends [`Kafka::freeze`].
    pub fn thaw(&self) {
        self.signal(libc::SIGCONT);
    }

    /// Lets none of its files grow beyond this: what a full disk is to a broker. Counts until its end.
    ///
    /// # Panics
    /// When it does not run.
    pub fn limit_file_size(&self, bytes: u64) {
        let pid = {
            let slot = self.process.lock().expect("the broker's process");
            slot.as_ref().expect("Kafka runs").pid()
        };
        let mut command = Command::new("prlimit");
        command
            .arg(format!("--fsize={bytes}"))
            .arg(format!("--pid={pid}"));
        process::run(command, None);
    }

    /// Writes a setting to the end of `server.properties`, where it wins; it counts from the next start on.
    pub fn set(&self, name: &str, value: &str) {
        let mut text = std::fs::read_to_string(self.properties()).expect("read server.properties");
        text.push_str(&format!("{name}={value}\n"));
        std::fs::write(self.properties(), text).expect("write server.properties");
    }

    /// Runs one of Kafka's commands, by its class, against the broker, and returns what it printed.
    ///
    /// # Panics
    /// When it fails, with what it printed.
    pub fn command(&self, class: &str, arguments: &[&str]) -> String {
        let mut command = self.java();
        command
            .args([class, "--bootstrap-server", &self.brokers()])
            .args(arguments);
        process::run(command, None)
    }

    /// The bootstrap server, `127.0.0.1:port`.
    pub fn brokers(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// The port of [`Kafka::brokers`].
    pub fn port(&self) -> u16 {
        self.port
    }

    /// A client configuration with the bootstrap server set.
    pub fn client_config(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", self.brokers());
        config
    }

    /// The file that has the broker's output.
    pub fn log_file(&self) -> PathBuf {
        self.folder.join("kafka.log")
    }

    fn signal(&self, signal: i32) {
        let slot = self.process.lock().expect("the broker's process");
        slot.as_ref().expect("Kafka runs").signal(signal);
    }

    fn take(&self) -> Option<Process> {
        self.process.lock().expect("the broker's process").take()
    }

    fn properties(&self) -> PathBuf {
        self.folder.join("server.properties")
    }

    fn java(&self) -> Command {
        let mut java = Command::new("java");
        java.args(JAVA_OPTIONS)
            .args([
                "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
                "-Dorg.slf4j.simpleLogger.showDateTime=true",
                "-Dorg.slf4j.simpleLogger.dateTimeFormat=yyyy-MM-dd HH:mm:ss.SSS",
            ])
            .arg(format!(
                "-XX:SharedArchiveFile={}",
                parts::kafka_class_archive().display()
            ))
            // What it unpacks and, killed, leaves behind goes with the folder.
            .arg(format!("-Djava.io.tmpdir={}", self.folder.display()))
            // The only place from which a broker may read the keys of a token issuer.
            .arg(format!(
                "-Dorg.apache.kafka.sasl.oauthbearer.allowed.urls=file://{}/jwks.json",
                self.folder.display()
            ))
            .arg("-cp")
            .arg(Part::Kafka.class_path());
        java
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{port, topic};
    use rdkafka::producer::{BaseProducer, BaseRecord, Producer};

    #[test]
    fn keeps_its_records_over_kill_freeze_and_restart() {
        let folder = crate::bed::temporary_folder();
        let kafka = Kafka::create(
            &folder.path().join("kafka"),
            port::free(),
            port::free(),
            &[("num.partitions", "2")],
        );
        kafka.start();
        let producer: BaseProducer = kafka
            .client_config()
            .set("compression.type", "lz4")
            .create()
            .expect("producer");
        let send = |text: &str| {
            // Long enough that compression is worth it.
            let key = text.repeat(500);
            producer
                .send(BaseRecord::to("t").key(&key).payload(text))
                .expect("send");
            producer.flush(Duration::from_secs(30)).expect("flush");
        };
        send("one");
        kafka.kill();
        assert!(kafka.check_answers().is_err());
        kafka.start();
        send("two");
        kafka.freeze();
        assert!(kafka.check_answers().is_err());
        kafka.thaw();
        kafka.restart();
        send("three");
        let mut values: Vec<String> = topic::read(&kafka, "t")
            .iter()
            .map(|r| r.value_text().to_owned())
            .collect();
        values.sort();
        assert_eq!(values, ["one", "three", "two"]);
        assert_eq!(topic::offsets(&kafka, "t").expect("offsets").len(), 2);
        let files = std::fs::read_dir(&kafka.folder).expect("the broker's folder");
        let names = files.map(|file| file.expect("a file").file_name());
        assert!(
            names
                .into_iter()
                .any(|name| name.to_string_lossy().starts_with("liblz4")),
            "what Java unpacks is not removed with the broker"
        );
    }
}
