//! A service of an example: started, asked, stopped.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use pg_cdc_tests::process::Process;
use pg_cdc_tests::{parts, port, wait_until};
use serde_json::Value;

const TIMEOUT: Duration = Duration::from_secs(60);

/// A running service. Dropping it kills it.
pub(crate) struct Service {
    port: u16,
    process: Process,
    agent: ureq::Agent,
}

/// What a service answered.
#[derive(Debug)]
pub(crate) struct Answer {
    /// The status.
    pub(crate) status: u16,
    /// The headers.
    pub(crate) headers: ureq::http::HeaderMap,
    /// The body; null where it is no JSON.
    pub(crate) body: Value,
}

impl Service {
    /// Starts the program `name`, which was built beside this one, with `LISTEN` and these further variables, and waits until
    /// it answers. Its output goes to a file in `folder`.
    ///
    /// # Panics
    /// When it ends instead, with the end of what it said.
    pub(crate) fn start(
        name: &str,
        port: u16,
        variables: &[(&str, &str)],
        folder: &Path,
    ) -> Service {
        std::fs::create_dir_all(folder).expect("the service's folder");
        let mut command = Command::new(parts::built(name));
        command.env("LISTEN", format!("127.0.0.1:{port}"));
        command.envs(variables.iter().copied());
        let log = folder.join(format!("{name}-{port}.log"));
        let mut process = Process::start(name, command, None, &log, libc::SIGKILL);
        let config = ureq::Agent::config_builder().http_status_as_error(false);
        let agent = config.timeout_global(Some(TIMEOUT)).build().new_agent();
        let health = format!("http://127.0.0.1:{port}/healthz");
        wait_until(name, TIMEOUT, || {
            process.check_running().unwrap_or_else(|e| panic!("{e}"));
            agent.get(&health).call().map(drop)
        });
        Service {
            port,
            process,
            agent,
        }
    }

    /// As [`Service::start`], on any free port.
    pub(crate) fn start_anywhere(name: &str, variables: &[(&str, &str)], folder: &Path) -> Service {
        Service::start(name, port::free(), variables, folder)
    }

    /// Its address.
    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Kills it.
    pub(crate) fn kill(self) {
        self.process.stop(libc::SIGKILL, TIMEOUT);
    }

    /// Sends it a signal: SIGSTOP freezes it, SIGCONT wakes it.
    pub(crate) fn signal(&self, signal: i32) {
        self.process.signal(signal);
    }

    /// Stops it in an orderly way.
    pub(crate) fn stop(self) {
        self.process.stop(libc::SIGTERM, TIMEOUT);
    }

    /// What it answers to a request without a body.
    ///
    /// # Panics
    /// When it does not answer.
    pub(crate) fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)]) -> Answer {
        self.send(method, path, headers, None)
    }

    /// What it answers to a request with a body of JSON.
    ///
    /// # Panics
    /// When it does not answer.
    pub(crate) fn ask_with(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &Value,
    ) -> Answer {
        self.send(method, path, headers, Some(body.to_string()))
    }

    /// What it answers to a request with this text as body, which says that it is JSON.
    ///
    /// # Panics
    /// When it does not answer.
    pub(crate) fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<String>,
    ) -> Answer {
        let mut request = ureq::http::Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.url()));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let answer = match body {
            Some(body) => {
                let request = request.header("content-type", "application/json");
                self.agent.run(request.body(body).expect("a request"))
            }
            None => self.agent.run(request.body(()).expect("a request")),
        };
        let mut answer = answer.unwrap_or_else(|error| panic!("{method} {path}: {error}"));
        let text = answer.body_mut().read_to_string();
        let text = text.unwrap_or_else(|error| panic!("{method} {path}: {error}"));
        Answer {
            status: answer.status().as_u16(),
            headers: answer.headers().clone(),
            body: serde_json::from_str(&text).unwrap_or_default(),
        }
    }
}
