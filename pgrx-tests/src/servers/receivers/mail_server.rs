//! A real SMTP server (aiosmtpd, Debian's `python3-aiosmtpd`) that keeps the mails, and misbehaves as it is told.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::process::Process;
use crate::{port, wait_until};

const TIMEOUT: Duration = Duration::from_secs(60);
const PROGRAM: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/mail/receive_mail.py");

/// A running server. Dropping it kills it.
#[derive(Debug)]
pub struct MailServer {
    port: u16,
    folder: PathBuf,
    _process: Process,
}

impl MailServer {
    /// Starts one that keeps its mails in `folder`.
    ///
    /// # Panics
    /// When it does not start.
    pub fn start(folder: &Path) -> MailServer {
        MailServer::start_at(folder, port::free())
    }

    /// As [`MailServer::start`], on this port: one that was away is there again, with the mails that it had.
    ///
    /// # Panics
    /// When it does not start.
    pub fn start_at(folder: &Path, port: u16) -> MailServer {
        std::fs::create_dir_all(folder).expect("the folder of mails");
        // The one that Debian's packages are for.
        let mut command = Command::new("/usr/bin/python3");
        command.arg(PROGRAM).arg(port.to_string()).arg(folder);
        let log = folder.join("smtp.log");
        let mut process = Process::start("aiosmtpd", command, None, &log, libc::SIGKILL);
        wait_until("the SMTP server", TIMEOUT, || {
            process.check_running().unwrap_or_else(|e| panic!("{e}"));
            std::net::TcpStream::connect(("127.0.0.1", port)).map_err(|e| e.to_string())
        });
        MailServer {
            port,
            folder: folder.to_owned(),
            _process: process,
        }
    }

    /// Where it listens.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Misbehaves with mails to this name: `busy`, `hang` or `close`.
    ///
    /// # Panics
    /// When its folder is gone.
    pub fn misbehave_with(&self, name: &str) {
        std::fs::write(self.folder.join(name), "").expect("tell the SMTP server");
    }

    /// Behaves again.
    ///
    /// # Panics
    /// When it was not told to misbehave so.
    pub fn behave_with(&self, name: &str) {
        std::fs::remove_file(self.folder.join(name)).expect("tell the SMTP server");
    }

    /// The mails in the order in which they came.
    ///
    /// # Panics
    /// When its folder is gone.
    pub fn mails(&self) -> Vec<String> {
        let files = std::fs::read_dir(self.folder.join("mails")).expect("the mails");
        let files = files.map(|file| file.expect("a mail").path());
        let mut files: Vec<PathBuf> = files
            .filter(|file| file.extension().is_some_and(|end| end == "eml"))
            .collect();
        files.sort();
        let read = files.iter().map(std::fs::read_to_string);
        read.map(|mail| mail.expect("a mail")).collect()
    }
}
