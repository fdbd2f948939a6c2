//! One PostgreSQL server of the bed: own data folder, own port, run as the user `postgres` when we are root.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use postgres::error::{DbError, SqlState};
use postgres::{Client, NoTls};

use crate::process::{self, Process, User};
use crate::{parts, wait_until};

/// How long a server may take to start or stop.
const TIMEOUT: Duration = Duration::from_secs(60);

/// The notices and warnings that a connection got so far.
pub type Notices = Arc<Mutex<Vec<DbError>>>;

/// A PostgreSQL server. Dropping it kills it; its folder is the caller's.
#[derive(Debug)]
pub struct Postgres {
    folder: PathBuf,
    port: u16,
    user: Option<User>,
    process: Mutex<Option<Process>>,
    preloaded: Mutex<Option<PathBuf>>,
}

impl Postgres {
    /// Makes a new server in `folder` (created, must not be deeper than about 80 characters because of the socket),
    /// without starting it. The superuser is `postgres`, everybody on this machine is trusted, and `settings`
    /// (`name`, `value`) go to the end of `postgresql.conf`.
    ///
    /// # Panics
    /// When `initdb` fails.
    pub fn create(folder: &Path, port: u16, settings: &[(&str, &str)]) -> Postgres {
        let user = User::for_postgres();
        std::fs::create_dir_all(folder)
            .unwrap_or_else(|e| panic!("cannot make {}: {e}", folder.display()));
        process::give_to(folder, user);
        let server = Postgres {
            folder: folder.to_owned(),
            port,
            user,
            process: Mutex::new(None),
            preloaded: Mutex::default(),
        };
        let mut initdb = Command::new(parts::postgres_bin().join("initdb"));
        initdb.arg("--pgdata").arg(server.data_folder()).args([
            "--username=postgres",
            "--auth=trust",
            "--encoding=UTF8",
            "--locale=C.UTF-8",
            "--no-sync",
        ]);
        process::run(initdb, user);
        let socket_folder = server.folder.display().to_string();
        for (name, value) in [
            ("port", port.to_string().as_str()),
            ("listen_addresses", "127.0.0.1"),
            ("unix_socket_directories", &socket_folder),
            ("log_line_prefix", "%m [%p] %b "),
            ("max_connections", "60"),
        ] {
            server.set(name, value);
        }
        for (name, value) in settings {
            server.set(name, value);
        }
        server
    }

    /// Makes a hot standby of this server in `folder`, without starting it: it follows under the name `name`.
    ///
    /// # Panics
    /// When the base backup fails.
    pub fn standby(&self, folder: &Path, port: u16, name: &str) -> Postgres {
        let standby = self.another(folder, port);
        let mut backup = Command::new(parts::postgres_bin().join("pg_basebackup"));
        backup
            .args([
                "--wal-method=stream",
                "--checkpoint=fast",
                "--write-recovery-conf",
            ])
            .arg("--pgdata")
            .arg(standby.data_folder())
            .arg("--dbname")
            .arg(format!(
                "host=127.0.0.1 port={} user=postgres application_name={name}",
                self.port
            ));
        process::run(backup, self.user);
        standby.settle()
    }

    /// Copies this server, which is stopped, file by file into `folder`.
    ///
    /// # Panics
    /// When the files cannot be copied.
    pub fn copy(&self, folder: &Path, port: u16) -> Postgres {
        let copy = self.another(folder, port);
        let mut files = Command::new("cp");
        files
            .arg("--archive")
            .args([self.data_folder(), copy.data_folder()]);
        process::run(files, self.user);
        copy.settle()
    }

    /// A server of the same user, with a folder and nothing in it.
    fn another(&self, folder: &Path, port: u16) -> Postgres {
        std::fs::create_dir_all(folder)
            .unwrap_or_else(|e| panic!("cannot make {}: {e}", folder.display()));
        process::give_to(folder, self.user);
        Postgres {
            folder: folder.to_owned(),
            port,
            user: self.user,
            process: Mutex::new(None),
            preloaded: Mutex::default(),
        }
    }

    /// The settings that two servers cannot share.
    fn settle(self) -> Postgres {
        let socket_folder = self.folder.display().to_string();
        self.set("port", &self.port.to_string());
        self.set("unix_socket_directories", &socket_folder);
        self
    }

    /// Writes a setting to the end of `postgresql.conf`, where it wins over earlier ones. It counts from the next
    /// [`Postgres::reload`] or [`Postgres::restart`] on, as the setting has it.
    pub fn set(&self, name: &str, value: &str) {
        use std::io::Write;
        let file = self.data_folder().join("postgresql.conf");
        let mut file = std::fs::File::options()
            .append(true)
            .open(file)
            .expect("postgresql.conf");
        writeln!(file, "{name} = '{}'", value.replace('\'', "''"))
            .expect("write to postgresql.conf");
    }

    /// From the next start on, functions of this C library take the place of those of the system.
    ///
    /// # Panics
    /// Where another thread has panicked in the same.
    pub fn preload(&self, library: &Path) {
        *self.preloaded.lock().expect("the preloaded library") = Some(library.to_owned());
    }

    /// Starts the server and waits until it takes connections.
    ///
    /// # Panics
    /// When it ends instead, or is not ready in time; the message has the end of its log.
    pub fn start(&self) {
        self.try_start().unwrap_or_else(|e| panic!("{e}"));
    }

    /// As [`Postgres::start`], for a server that is expected to refuse.
    ///
    /// # Errors
    /// How it ended, and the end of its log.
    pub fn try_start(&self) -> Result<(), String> {
        let mut slot = self.process.lock().expect("the server's process");
        assert!(
            slot.is_none(),
            "PostgreSQL on port {} runs already",
            self.port
        );
        let mut postmaster = Command::new(parts::postgres_bin().join("postgres"));
        postmaster.arg("-D").arg(self.data_folder());
        // What an operator may have set for other programs: messages must be the same.
        postmaster.env("RUST_BACKTRACE", "full");
        if let Some(library) = &*self.preloaded.lock().expect("the preloaded library") {
            postmaster.env("LD_PRELOAD", library);
        }
        // The death signal is an immediate shutdown: the server's own children end as well.
        let mut process = Process::start(
            "PostgreSQL",
            postmaster,
            self.user,
            &self.log_file(),
            libc::SIGQUIT,
        );
        wait_until("PostgreSQL to take connections", TIMEOUT, || {
            if process.ended().is_some() {
                return Ok(());
            }
            self.try_connect("postgres").map(drop)
        });
        process.check_running()?;
        *slot = Some(process);
        Ok(())
    }

    /// Stops it as `pg_ctl stop -m fast` does; nothing if it does not run.
    ///
    /// # Panics
    /// When it does not end in time.
    pub fn stop(&self) {
        self.stop_by(libc::SIGINT);
    }

    /// Stops it as `pg_ctl stop -m immediate` does: as after a crash, the next start recovers.
    pub fn stop_immediately(&self) {
        self.stop_by(libc::SIGQUIT);
    }

    /// Kills the postmaster with SIGKILL, and waits until its children have noticed and ended.
    ///
    /// # Panics
    /// When it does not run, or its children stay.
    pub fn kill(&self) {
        let process = self.process.lock().expect("the server's process").take();
        let process = process.expect("PostgreSQL runs");
        let children = process::children_of(process.pid());
        process.stop(libc::SIGKILL, TIMEOUT);
        wait_until("the killed server's children to end", TIMEOUT, || {
            let left: Vec<&u32> = children
                .iter()
                .filter(|pid| process::exists(**pid))
                .collect();
            if left.is_empty() {
                Ok(())
            } else {
                Err(format!("processes {left:?}"))
            }
        });
    }

    /// Stops (fast) and starts it.
    pub fn restart(&self) {
        self.stop();
        self.start();
    }

    /// Has it read its settings again.
    ///
    /// # Panics
    /// When it does not run.
    pub fn reload(&self) {
        process::send_signal(self.pid(), libc::SIGHUP);
    }

    /// Sends a signal to one of its backends or workers.
    pub fn signal_backend(&self, pid: i32, signal: i32) {
        process::send_signal(u32::try_from(pid).expect("a process id"), signal);
    }

    /// The postmaster's process id.
    ///
    /// # Panics
    /// When it does not run.
    pub fn pid(&self) -> u32 {
        let slot = self.process.lock().expect("the server's process");
        slot.as_ref().expect("PostgreSQL runs").pid()
    }

    /// The TCP port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// A connection string for one of its databases.
    pub fn url(&self, database: &str) -> String {
        format!("postgres://postgres@127.0.0.1:{}/{database}", self.port)
    }

    /// A new connection, as `postgres`.
    ///
    /// # Panics
    /// When it is refused.
    pub fn connect(&self, database: &str) -> Client {
        self.try_connect(database).unwrap_or_else(|e| panic!("{e}"))
    }

    /// A new connection, as `postgres`.
    ///
    /// # Errors
    /// What PostgreSQL or the operating system says.
    pub fn try_connect(&self, database: &str) -> Result<Client, String> {
        Client::connect(&format!("{}?connect_timeout=10", self.url(database)), NoTls)
            .map_err(|e| format!("cannot connect to {database} on port {}: {e:?}", self.port))
    }

    /// A new connection of a role that may log in.
    ///
    /// # Panics
    /// When it is refused.
    pub fn connect_as(&self, role: &str, database: &str) -> Client {
        let place = format!("postgres://{role}@127.0.0.1:{}/{database}", self.port);
        Client::connect(&place, NoTls).unwrap_or_else(|e| panic!("cannot connect as {role}: {e:?}"))
    }

    /// As [`Postgres::connect`], and the notices and warnings that the connection gets.
    ///
    /// # Panics
    /// When it is refused.
    pub fn connect_with_notices(&self, database: &str) -> (Client, Notices) {
        let notices = Notices::default();
        let kept = notices.clone();
        let mut config: postgres::Config = self.url(database).parse().expect("a connection string");
        config.notice_callback(move |notice| kept.lock().expect("the notices").push(notice));
        let client = config
            .connect(NoTls)
            .unwrap_or_else(|e| panic!("cannot connect: {e:?}"));
        (client, notices)
    }

    /// Creates a database.
    ///
    /// # Panics
    /// When it exists.
    pub fn create_database(&self, name: &str) {
        let statement = format!("CREATE DATABASE \"{name}\"");
        let mut client = self.connect("postgres");
        // A server that was just started may have a process of its own in template1 for a moment.
        wait_until(&statement, TIMEOUT, || {
            match client.batch_execute(&statement) {
                Err(error) if error.code() == Some(&SqlState::OBJECT_IN_USE) => Err(error),
                made => {
                    made.unwrap_or_else(|e| panic!("{statement}: {e:?}"));
                    Ok(())
                }
            }
        });
    }

    /// Starts one of PostgreSQL's own programs (`pgbench`, `pg_dump`) with this server as its target, and waits for
    /// its end. Returns what it printed.
    ///
    /// # Panics
    /// When it fails, with what it printed.
    pub fn program(&self, name: &str, arguments: &[&str]) -> String {
        process::run(self.command(name, arguments), None)
    }

    /// One of PostgreSQL's own programs with this server as its target, to be started.
    pub fn command(&self, name: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(parts::postgres_bin().join(name));
        command.args(arguments);
        command
            .env("PGHOST", "127.0.0.1")
            .env("PGPORT", self.port.to_string())
            .env("PGUSER", "postgres");
        command
    }

    /// The server log since the server was made.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(self.log_file()).unwrap_or_default()).into_owned()
    }

    /// The file of [`Postgres::log`].
    pub fn log_file(&self) -> PathBuf {
        self.folder.join("postgres.log")
    }

    /// The data folder (`PGDATA`).
    pub fn data_folder(&self) -> PathBuf {
        self.folder.join("data")
    }

    /// Writes a file of the server's own user into the data folder, at once as a whole; returns its path.
    ///
    /// # Panics
    /// When that is not possible.
    pub fn write_file(&self, name: &str, content: &[u8], mode: u32) -> String {
        use std::os::unix::fs::PermissionsExt;
        let path = self.data_folder().join(name);
        // Two tests may write one file at the same time.
        static WRITTEN: AtomicU32 = AtomicU32::new(0);
        let number = WRITTEN.fetch_add(1, Ordering::Relaxed);
        let new = self.data_folder().join(format!("{name}.{number}.new"));
        let failed = |e| panic!("cannot write {}: {e}", path.display());
        std::fs::write(&new, content)
            .and_then(|()| std::fs::set_permissions(&new, std::fs::Permissions::from_mode(mode)))
            .unwrap_or_else(failed);
        process::give_to(&new, self.user);
        std::fs::rename(&new, &path).unwrap_or_else(failed);
        path.display().to_string()
    }

    /// Asserts that no process of the server ever crashed, by its log (promise G11).
    ///
    /// # Panics
    /// With the lines that say otherwise.
    pub fn assert_never_crashed(&self) {
        let log = self.log();
        let bad: Vec<&str> = log
            .lines()
            .filter(|line| {
                [
                    "terminated by signal",
                    "PANIC",
                    "because of crash",
                    "crash of another server process",
                ]
                .iter()
                .any(|sign| line.contains(sign))
            })
            .collect();
        assert!(
            bad.is_empty(),
            "the server log tells of a crash:\n{}",
            bad.join("\n")
        );
    }

    fn stop_by(&self, signal: i32) {
        let process = self.process.lock().expect("the server's process").take();
        if let Some(process) = process {
            process.stop(signal, TIMEOUT);
        }
    }
}

impl Drop for Postgres {
    /// Not by SIGKILL, after which shared memory and children would stay a while.
    fn drop(&mut self) {
        if let Ok(mut slot) = self.process.lock()
            && let Some(mut process) = slot.take()
        {
            process.end_by(libc::SIGQUIT, Duration::from_secs(10));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn starts_stops_and_recovers_from_kill() {
        let folder = crate::bed::temporary_folder();
        let server = Postgres::create(
            &folder.path().join("pg"),
            crate::port::free(),
            &[("work_mem", "7MB")],
        );
        server.start();
        server.create_database("it's");
        let mut client = server.connect("it's");
        client
            .batch_execute("CREATE TABLE t AS SELECT 1 AS a")
            .expect("create");
        let row = client
            .query_one("SELECT a, current_setting('work_mem') FROM t", &[])
            .expect("read");
        assert_eq!((row.get::<_, i32>(0), row.get::<_, &str>(1)), (1, "7MB"));

        server.kill();
        server.start();
        let mut client = server.connect("it's");
        assert_eq!(
            client
                .query_one("SELECT a FROM t", &[])
                .expect("read")
                .get::<_, i32>(0),
            1
        );
        server.assert_never_crashed();

        server.set("work_mem", "9MB");
        server.restart();
        let mut client = server.connect("it's");
        let row = client
            .query_one("SELECT current_setting('work_mem')", &[])
            .expect("read");
        assert_eq!(row.get::<_, &str>(0), "9MB");
    }

    #[test]
    #[should_panic(expected = "terminated by signal 9")]
    fn a_killed_backend_is_noticed_as_a_crash() {
        let folder = crate::bed::temporary_folder();
        let server = Postgres::create(&folder.path().join("pg"), crate::port::free(), &[]);
        server.start();
        let mut client = server.connect("postgres");
        let pid: i32 = client
            .query_one("SELECT pg_backend_pid()", &[])
            .expect("pid")
            .get(0);
        server.signal_backend(pid, libc::SIGKILL);
        wait_until("the crash to be logged", TIMEOUT, || {
            if server.log().contains("terminated by signal") {
                Ok(())
            } else {
                Err("nothing")
            }
        });
        server.assert_never_crashed();
    }
}
