//! Where an example is: its files, and what it has on the bed.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use pg_cdc_tests::companion_sink::CompanionSink;
use pg_cdc_tests::{Database, TestBed};
use postgres::Client;

/// `examples/runner`; its neighbours are the examples.
const RUNNER: &str = env!("CARGO_MANIFEST_DIR");

/// The place of an example: its folder in `examples/`, and a folder on the bed.
#[derive(Clone, Copy)]
pub(crate) struct Place {
    bed: &'static TestBed,
    name: &'static str,
}

impl Place {
    /// The place of the example `name`.
    pub(crate) fn of(bed: &'static TestBed, name: &'static str) -> Place {
        std::fs::create_dir_all(bed.path(name)).expect("the example's folder");
        Place { bed, name }
    }

    /// The bed.
    pub(crate) fn bed(&self) -> &'static TestBed {
        self.bed
    }

    /// A file or folder of `examples/NAME`.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        let examples = Path::new(RUNNER).parent().expect("the examples");
        examples.join(self.name).join(name)
    }

    /// A file or folder that is the example's own while it runs.
    pub(crate) fn own(&self, name: &str) -> PathBuf {
        self.bed.path(self.name).join(name)
    }

    /// A new database of the source server with the extension, after Kafka has started.
    pub(crate) fn database(&self, name: &str) -> Database<'static> {
        std::thread::scope(|scope| {
            scope.spawn(|| self.bed.kafka());
            self.bed.source();
        });
        self.bed.database(name)
    }

    /// Runs a file of statements, all or none.
    ///
    /// # Panics
    /// When one fails.
    pub(crate) fn run_sql(&self, client: &mut Client, file: &str) {
        let statements = std::fs::read_to_string(self.file(file));
        let statements = statements.unwrap_or_else(|error| panic!("{file}: {error}"));
        if let Err(error) = client.batch_execute(&statements) {
            panic!("{file}: {error:?}");
        }
    }

    /// The companion-sink of the folder `configuration`, with the bed's Kafka and these further variables, not started. People
    /// use it as the script [`Place::script`].
    pub(crate) fn companion_sink(
        &self,
        configuration: &str,
        variables: &[(&str, &str)],
        http_port: u16,
    ) -> CompanionSink {
        let brokers = self.bed.kafka().brokers();
        let mut all = vec![("COMPANION_SINK__KAFKA__BROKERS", brokers.as_str())];
        all.extend(variables);
        let (folder, files) = (self.own(configuration), self.file(configuration));
        let sink = CompanionSink::copy_of(&folder, &files, &all, http_port);
        self.write_script(configuration, &sink);
        sink
    }

    /// A script that is companion-sink with the configuration of [`Place::companion_sink`].
    pub(crate) fn script(&self, configuration: &str) -> String {
        self.own(&format!("{configuration}.sh"))
            .display()
            .to_string()
    }

    fn write_script(&self, configuration: &str, sink: &CompanionSink) {
        let command = sink.command();
        let mut script = "#!/bin/sh\n".to_owned();
        for (name, value) in command.get_envs() {
            let value = value.unwrap_or_default();
            script.push_str(&format!("export {}={}\n", name.display(), quoted(value)));
        }
        if let Some(folder) = command.get_current_dir() {
            script.push_str(&format!("cd {}\n", quoted(folder.as_os_str())));
        }
        script.push_str(&format!("exec {}", quoted(command.get_program())));
        for argument in command.get_args() {
            script.push_str(&format!(" {}", quoted(argument)));
        }
        script.push_str(" \"$@\"\n");
        let file = self.script(configuration);
        std::fs::write(&file, script).expect("the script");
        let mode = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(&file, mode).expect("the script's mode");
    }
}

/// As a word of a shell.
fn quoted(text: &std::ffi::OsStr) -> String {
    format!("'{}'", text.to_string_lossy().replace('\'', "'\\''"))
}
