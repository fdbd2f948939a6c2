//! A real SMTP server (aiosmtpd, Debian's `python3-aiosmtpd`) that keeps the mails, and misbehaves as it is told.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::certificates::Identity;
use crate::process::Process;
use crate::{port, wait_until};

const TIMEOUT: Duration = Duration::from_secs(60);
const PROGRAM: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/mail/receive_mail.py");

/// A running server. Dropping it kills it.
#[derive(Debug)]
pub struct MailServer {
    port: u16,
    folder: PathBuf,
    process: Process,
}

/// How who sends a mail must encrypt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MailSecurity {
    /// After STARTTLS; and must log in, as `shop` with the password `a secret`.
    StartTls,
    /// From the beginning.
    Tls,
}

impl MailServer {
    /// Starts one that keeps its mails in `folder`.
    ///
    /// # Panics
    /// When it does not start.
    pub fn start(folder: &Path) -> MailServer {
        MailServer::start_with(folder, &[])
    }

    /// As [`MailServer::start`], of one that takes mails only from who encrypts.
    ///
    /// # Panics
    /// As that does.
    pub fn start_encrypted(
        folder: &Path,
        security: MailSecurity,
        identity: &Identity,
    ) -> MailServer {
        std::fs::create_dir_all(folder).expect("the folder of mails");
        let write = |name: &str, pem: String| std::fs::write(folder.join(name), pem);
        write("certificate.pem", identity.certificate_pem())
            .and_then(|()| write("key.pem", identity.key_pem()))
            .expect("the certificate");
        let security = match security {
            MailSecurity::StartTls => "starttls",
            MailSecurity::Tls => "tls",
        };
        MailServer::start_with(folder, &[security])
    }

    fn start_with(folder: &Path, arguments: &[&str]) -> MailServer {
        std::fs::create_dir_all(folder).expect("the folder of mails");
        let port = port::free();
        // The one that Debian's packages are for.
        let mut command = Command::new("/usr/bin/python3");
        command.arg(PROGRAM).arg(port.to_string()).arg(folder);
        command.args(arguments);
        let log = folder.join("smtp.log");
        let mut process = Process::start("aiosmtpd", command, None, &log, libc::SIGKILL);
        wait_until("the SMTP server", TIMEOUT, || {
            process.check_running().unwrap_or_else(|e| panic!("{e}"));
            std::net::TcpStream::connect(("127.0.0.1", port)).map_err(|e| e.to_string())
        });
        MailServer {
            port,
            folder: folder.to_owned(),
            process,
        }
    }

    /// Where it listens.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Waits until a mail comes that hangs, and stops the process there (SIGSTOP).
    ///
    /// # Panics
    /// When none comes.
    pub fn stop_within_a_mail(&self) {
        super::wait_until_hanging(&self.folder);
        self.process.signal(libc::SIGSTOP);
    }

    /// Lets the process go on (SIGCONT).
    pub fn go_on(&self) {
        self.process.signal(libc::SIGCONT);
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
