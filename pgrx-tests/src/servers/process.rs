//! Child processes that end with their starter, whatever ends it.

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc::{Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

/// A user of this machine, by its numbers.
#[derive(Clone, Copy, Debug)]
pub struct User {
    /// User id.
    pub uid: u32,
    /// The user's own group.
    pub gid: u32,
}

impl User {
    /// The user as whom PostgreSQL runs: `postgres` when we are root (PostgreSQL refuses root), else we ourselves.
    ///
    /// # Panics
    /// When there is no user `postgres`.
    pub fn for_postgres() -> Option<User> {
        // SAFETY: geteuid takes nothing and cannot fail.
        if unsafe { libc::geteuid() } != 0 {
            return None;
        }
        // SAFETY: the name is a C string; the result is read at once, before anybody asks for another user.
        let entry = unsafe { libc::getpwnam(c"postgres".as_ptr()).as_ref() };
        let entry = entry.expect("the user postgres, who comes with Debian's postgresql-common");
        Some(User {
            uid: entry.pw_uid,
            gid: entry.pw_gid,
        })
    }
}

/// A running child process, its output in a log file. Dropping it kills it.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `command` with its output appended to `log`, in a process group of its own (Ctrl-C on the terminal is
    /// the starter's business). The kernel sends it `death_signal` when this program ends in any way.
    ///
    /// # Panics
    /// When the program cannot be started.
    pub fn start(
        name: &str,
        mut command: Command,
        user: Option<User>,
        log: &Path,
        death_signal: i32,
    ) -> Process {
        let output = File::options().create(true).append(true).open(log);
        let output = output.unwrap_or_else(|e| panic!("cannot write {}: {e}", log.display()));
        command
            .stdin(Stdio::null())
            .stdout(output.try_clone().expect("a second handle of the log"))
            .stderr(output)
            .process_group(0);
        become_user(&mut command, user);
        let parent = std::process::id();
        // SAFETY: what is called is async-signal-safe, and nothing is allocated between fork and exec. It runs after the
        // change of user, which would clear the death signal. The set is initialised by sigemptyset.
        unsafe {
            command.pre_exec(move || {
                // Signals that the starter blocks must still end the child.
                let mut none: libc::sigset_t = std::mem::zeroed();
                libc::sigemptyset(&mut none);
                libc::sigprocmask(libc::SIG_SETMASK, &none, std::ptr::null_mut());
                if libc::prctl(libc::PR_SET_PDEATHSIG, death_signal) != 0 {
                    return Err(std::io::Error::last_os_error());
                }
                if libc::getppid() as u32 != parent {
                    libc::_exit(1);
                }
                Ok(())
            });
        }
        let child = spawn(command).unwrap_or_else(|e| panic!("cannot start {name}: {e}"));
        Process {
            name: name.to_owned(),
            child,
            log: log.to_owned(),
        }
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// How it ended, if it did.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child
            .try_wait()
            .unwrap_or_else(|e| panic!("cannot look after {}: {e}", self.name))
    }

    /// Sends a signal.
    pub fn signal(&self, signal: i32) {
        send_signal(self.pid(), signal);
    }

    /// Sends `signal` and waits until the process has ended.
    ///
    /// # Panics
    /// When it has not ended after `timeout`; the message has the end of its log.
    pub fn stop(mut self, signal: i32, timeout: Duration) -> ExitStatus {
        self.end_by(signal, timeout).unwrap_or_else(|| {
            panic!(
                "{} did not end within {} s of signal {signal}. Its log ends:\n{}",
                self.name,
                timeout.as_secs(),
                log_tail(&self.log, 30)
            )
        })
    }

    /// Sends `signal` and waits for the end; `None` when it has not come after `timeout`.
    pub(crate) fn end_by(&mut self, signal: i32, timeout: Duration) -> Option<ExitStatus> {
        let start = Instant::now();
        if self.ended().is_none() {
            self.signal(signal);
        }
        loop {
            let ended = self.ended();
            if ended.is_some() || start.elapsed() > timeout {
                return ended;
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Fails when the process has ended.
    ///
    /// # Errors
    /// How it ended, and the end of its log.
    pub fn check_running(&mut self) -> Result<(), String> {
        match self.ended() {
            None => Ok(()),
            Some(status) => Err(format!(
                "{} ended ({status}). Its log ends:\n{}",
                self.name,
                log_tail(&self.log, 30)
            )),
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Errors mean that it has ended already, which is what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Sends a signal to any process that the bed started, or to a child of one.
///
/// # Panics
/// When there is no such process.
pub fn send_signal(pid: u32, signal: i32) {
    let pid = i32::try_from(pid).expect("a process id");
    // SAFETY: kill only takes numbers.
    let result = unsafe { libc::kill(pid, signal) };
    assert!(
        result == 0,
        "cannot send signal {signal} to process {pid}: {}",
        std::io::Error::last_os_error()
    );
}

/// Whether a process exists (a zombie does not count).
pub fn exists(pid: u32) -> bool {
    status_of(pid).is_some_and(|(_, state)| state != 'Z')
}

/// A size of a process out of `/proc/PID/status`, in kB: `VmHWM` is the highest that was ever resident.
///
/// # Panics
/// If the process is gone.
pub fn kilobytes(pid: u32, name: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("the process");
    let mut lines = status.lines();
    let line = lines.find(|line| line.split(':').next() == Some(name));
    let number = line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok());
    number.expect("a number")
}

/// The ids of the direct children of a process.
pub fn children_of(parent: u32) -> Vec<u32> {
    let processes = std::fs::read_dir("/proc").expect("/proc");
    processes
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|pid| status_of(*pid).is_some_and(|(of, _)| of == parent))
        .collect()
}

/// Parent and state letter out of `/proc/PID/stat`.
fn status_of(pid: u32) -> Option<(u32, char)> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in parentheses, may contain anything.
    let mut fields = stat[stat.rfind(')')? + 1..].split_whitespace();
    let state = fields.next()?.chars().next()?;
    Some((fields.next()?.parse().ok()?, state))
}

/// The last lines of a log file.
pub fn log_tail(log: &Path, lines: usize) -> String {
    let bytes = std::fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

/// Runs a command to its end, as `user` if given, and returns what it printed.
///
/// # Panics
/// When it fails, with what it printed.
pub fn run(command: Command, user: Option<User>) -> String {
    let program = format!("{command:?}");
    let output = output(command, user);
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success(),
        "{program} failed ({}):\n{stdout}{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    stdout.into_owned()
}

/// Runs a command to its end, as `user` if given, whether it fails or not.
///
/// # Panics
/// When it cannot be started.
pub fn output(mut command: Command, user: Option<User>) -> Output {
    become_user(&mut command, user);
    let output = command.stdin(Stdio::null()).output();
    output.unwrap_or_else(|e| panic!("cannot run {command:?}: {e}"))
}

/// Gives a file or folder to a user.
///
/// # Panics
/// When that is not allowed.
pub fn give_to(path: &Path, user: Option<User>) {
    if let Some(user) = user {
        std::os::unix::fs::chown(path, Some(user.uid), Some(user.gid))
            .unwrap_or_else(|e| panic!("cannot give {} away: {e}", path.display()));
    }
}

fn become_user(command: &mut Command, user: Option<User>) {
    if let Some(user) = user {
        command.uid(user.uid).gid(user.gid).current_dir("/");
    }
}

type Order = (Command, Sender<std::io::Result<Child>>);

/// Starts a command from a thread that lives as long as this program: the death signal comes when the *thread* that
/// started the child ends, and a test's thread ends before the bed that it happened to start.
fn spawn(command: Command) -> std::io::Result<Child> {
    static STARTER: OnceLock<Sender<Order>> = OnceLock::new();
    let starter = STARTER.get_or_init(|| {
        let (orders, inbox) = channel::<Order>();
        thread::spawn(move || {
            for (mut command, answer) in inbox {
                let _ = answer.send(command.spawn());
            }
        });
        orders
    });
    let (answer, result) = channel();
    starter.send((command, answer)).expect("the starter thread");
    result.recv().expect("the starter thread's answer")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dropped_process_is_gone() {
        let folder = tempfile::tempdir().expect("folder");
        let mut command = Command::new("sleep");
        command.arg("600");
        let process = Process::start(
            "sleep",
            command,
            None,
            &folder.path().join("log"),
            libc::SIGKILL,
        );
        let pid = process.pid();
        assert!(exists(pid));
        assert!(children_of(std::process::id()).contains(&pid));
        drop(process);
        assert!(!exists(pid));
    }

    #[test]
    fn a_process_outlives_the_thread_that_asked_for_it() {
        let folder = tempfile::tempdir().expect("folder");
        let log = folder.path().join("log");
        let mut process = thread::spawn(move || {
            let mut command = Command::new("sleep");
            command.arg("600");
            Process::start("sleep", command, None, &log, libc::SIGKILL)
        })
        .join()
        .expect("thread");
        thread::sleep(Duration::from_millis(100));
        process.check_running().expect("still running");
    }

    #[test]
    #[should_panic(expected = "no such file here")]
    fn the_log_is_in_the_message() {
        let folder = tempfile::tempdir().expect("folder");
        let mut command = Command::new("sh");
        command.args(["-c", "echo no such file here >&2; exit 3"]);
        let mut process = Process::start(
            "sh",
            command,
            None,
            &folder.path().join("log"),
            libc::SIGKILL,
        );
        process.child.wait().expect("end");
        if let Err(seen) = process.check_running() {
            panic!("{seen}");
        }
    }
}
