//! FerretDB: MongoDB's protocol, the documents in a PostgreSQL database. The real MongoDB's stand-in.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::time::Duration;

use mongodb::bson::doc;
use mongodb::sync::Client;

use crate::postgres::Postgres;
use crate::process::Process;
use crate::{parts, wait_until};

const TIMEOUT: Duration = Duration::from_secs(60);

/// A FerretDB server. Dropping it kills it.
#[derive(Debug)]
pub struct FerretDb {
    port: u16,
    postgres_url: String,
    log: PathBuf,
    process: Mutex<Option<Process>>,
}

impl FerretDb {
    /// A server whose documents are in `database` (created here) of `postgres`, which must run. Not started yet.
    ///
    /// # Panics
    /// When `database` exists.
    pub fn create(folder: &Path, port: u16, postgres: &Postgres, database: &str) -> FerretDb {
        std::fs::create_dir_all(folder)
            .unwrap_or_else(|e| panic!("cannot make {}: {e}", folder.display()));
        postgres.create_database(database);
        FerretDb {
            port,
            postgres_url: postgres.url(database),
            log: folder.join("ferretdb.log"),
            process: Mutex::new(None),
        }
    }

    /// Starts it and waits until it answers.
    ///
    /// # Panics
    /// When it ends instead, or is not ready in time; the message has the end of its log.
    pub fn start(&self) {
        let mut slot = self.process.lock().expect("FerretDB's process");
        assert!(
            slot.is_none(),
            "FerretDB on port {} runs already",
            self.port
        );
        let mut command = Command::new(parts::ferretdb());
        command
            .args(["-listen", &format!("127.0.0.1:{}", self.port)])
            .args(["-postgresql-url", &self.postgres_url])
            .env("DO_NOT_TRACK", "1");
        let mut process = Process::start("FerretDB", command, None, &self.log, libc::SIGKILL);
        wait_until("FerretDB to answer", TIMEOUT, || {
            process.check_running().unwrap_or_else(|e| panic!("{e}"));
            std::net::TcpStream::connect(("127.0.0.1", self.port)).map_err(|e| e.to_string())
        });
        self.client()
            .database("admin")
            .run_command(doc! {"ping": 1})
            .run()
            .expect("FerretDB answers");
        *slot = Some(process);
    }

    /// Stops it in an orderly way; nothing if it does not run.
    ///
    /// # Panics
    /// When it does not end in time.
    pub fn stop(&self) {
        if let Some(process) = self.process.lock().expect("FerretDB's process").take() {
            process.stop(libc::SIGTERM, TIMEOUT);
        }
    }

    /// Kills it with SIGKILL.
    ///
    /// # Panics
    /// When it does not run.
    pub fn kill(&self) {
        let process = self.process.lock().expect("FerretDB's process").take();
        process.expect("FerretDB runs").stop(libc::SIGKILL, TIMEOUT);
    }

    /// The server's connection string, without a database.
    pub fn url(&self) -> String {
        format!("mongodb://127.0.0.1:{}", self.port)
    }

    /// The file that has the server's output.
    pub fn log_file(&self) -> &Path {
        &self.log
    }

    /// A client of it.
    ///
    /// # Panics
    /// When the driver refuses the connection string.
    pub fn client(&self) -> Client {
        Client::with_uri_str(format!(
            "{}/?directConnection=true&serverSelectionTimeoutMS=5000",
            self.url()
        ))
        .expect("a MongoDB client")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::port;

    #[test]
    fn keeps_its_documents_over_kill() {
        let folder = crate::bed::temporary_folder();
        let postgres = Postgres::create(&folder.path().join("pg"), port::free(), &[]);
        postgres.start();
        let ferretdb = FerretDb::create(
            &folder.path().join("f"),
            port::free(),
            &postgres,
            "documents",
        );
        ferretdb.start();
        let collection = |ferretdb: &FerretDb| ferretdb.client().database("d").collection("c");
        collection(&ferretdb)
            .insert_one(doc! {"_id": "a", "n": 1_i64})
            .run()
            .expect("insert");
        ferretdb.kill();
        ferretdb.start();
        let found = collection(&ferretdb)
            .find_one(doc! {"_id": "a"})
            .run()
            .expect("find");
        assert_eq!(found, Some(doc! {"_id": "a", "n": 1_i64}));
        ferretdb.stop();
        postgres.stop();
    }
}
