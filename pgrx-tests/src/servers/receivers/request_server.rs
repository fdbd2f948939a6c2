//! An HTTP server that is a process of its own, and so can be stopped in the middle of a request.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::process::Process;
use crate::{port, wait_until};

const TIMEOUT: Duration = Duration::from_secs(60);
const PROGRAM: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/mail/receive_requests.py");

/// A running server. Dropping it kills it.
#[derive(Debug)]
pub struct RequestServer {
    port: u16,
    folder: PathBuf,
    process: Process,
}

impl RequestServer {
    /// Starts one that works in `folder`.
    ///
    /// # Panics
    /// When it does not start.
    pub fn start(folder: &Path) -> RequestServer {
        std::fs::create_dir_all(folder).expect("the folder of requests");
        let port = port::free();
        let mut command = Command::new("/usr/bin/python3");
        command.arg(PROGRAM).arg(port.to_string()).arg(folder);
        let log = folder.join("http.log");
        let mut process = Process::start("http.server", command, None, &log, libc::SIGKILL);
        wait_until("the HTTP server", TIMEOUT, || {
            process.check_running().unwrap_or_else(|e| panic!("{e}"));
            std::net::TcpStream::connect(("127.0.0.1", port)).map_err(|e| e.to_string())
        });
        RequestServer {
            port,
            folder: folder.to_owned(),
            process,
        }
    }

    /// Where it listens.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}/hook", self.port)
    }

    /// Answers nobody, from now on or no more.
    ///
    /// # Panics
    /// When its folder is gone.
    pub fn hang(&self, hangs: bool) {
        let file = self.folder.join("hang");
        let done = match hangs {
            true => std::fs::write(file, ""),
            false => std::fs::remove_file(file),
        };
        done.expect("tell the HTTP server");
    }

    /// Waits until a request is being answered that hangs, and stops the process there (SIGSTOP).
    ///
    /// # Panics
    /// When none comes.
    pub fn stop_within_a_request(&self) {
        super::wait_until_hanging(&self.folder);
        self.process.signal(libc::SIGSTOP);
    }

    /// Lets the process go on (SIGCONT).
    pub fn go_on(&self) {
        self.process.signal(libc::SIGCONT);
    }

    /// The ids of the requests that it has answered, in that order.
    ///
    /// # Panics
    /// When its folder is gone.
    pub fn done_ids(&self) -> Vec<String> {
        let files = std::fs::read_dir(self.folder.join("done")).expect("the requests");
        let mut files: Vec<PathBuf> = files.map(|file| file.expect("a file").path()).collect();
        files.sort();
        let read = files.iter().map(std::fs::read_to_string);
        read.map(|id| id.expect("an id")).collect()
    }
}
