//! The regression suite: a copy that the server's user may read and write, the library of its C functions, its database.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use pg_cdc_tests::parts;
use pg_cdc_tests::postgres::Postgres;
use pg_cdc_tests::process::{self, User};

/// The database that the suite runs in. Its files contain the name.
pub(crate) const DATABASE: &str = "regression";

/// A copy of `src/test/regress`.
pub(crate) struct Suite {
    folder: PathBuf,
}

impl Suite {
    /// Copies the suite out of PostgreSQL's source into `folder`, and builds its library there.
    pub(crate) fn unpack(source: &Path, folder: &Path) -> Suite {
        process::run(
            command("cp", &["--recursive", "--dereference"], |copy| {
                copy.arg(source.join("src/test/regress")).arg(folder);
            }),
            None,
        );
        let include = process::run(
            command_of_postgres("pg_config", &["--includedir-server"]),
            None,
        );
        for library in [
            "src/test/regress/regress",
            "contrib/spi/autoinc",
            "contrib/spi/refint",
        ] {
            let code = source.join(library).with_extension("c");
            let name = code.file_stem().expect("the name of a library");
            process::run(
                command("gcc", &["-shared", "-fPIC", "-O1", "-w", "-o"], |build| {
                    build
                        .arg(folder.join(name).with_extension("so"))
                        .arg(format!("-I{}", include.trim()))
                        .arg(&code);
                }),
                None,
            );
        }
        let suite = Suite {
            folder: folder.to_owned(),
        };
        std::fs::create_dir_all(suite.output()).expect("a folder for the output");
        if let Some(user) = User::for_postgres() {
            process::run(
                command("chown", &["--recursive"], |give| {
                    give.arg(format!("{}:{}", user.uid, user.gid)).arg(folder);
                }),
                None,
            );
        }
        suite
    }

    /// Makes the database with the settings that `pg_regress` gives one of its own making.
    pub(crate) fn make_database(&self, server: &Postgres) {
        let mut client = server.connect("postgres");
        client
            .batch_execute(&format!(
                "CREATE DATABASE {DATABASE} TEMPLATE template0 LOCALE 'C'"
            ))
            .expect("the suite's database");
        for setting in [
            "lc_messages TO 'C'",
            "lc_monetary TO 'C'",
            "lc_numeric TO 'C'",
            "lc_time TO 'C'",
            "bytea_output TO 'hex'",
            "timezone_abbreviations TO 'Default'",
        ] {
            client
                .batch_execute(&format!("ALTER DATABASE {DATABASE} SET {setting}"))
                .expect("a setting of the suite's database");
        }
    }

    /// Runs every test of the suite. Whether its output is as expected is not looked at here.
    pub(crate) fn run(&self, server: &Postgres) {
        let packages = process::run(command_of_postgres("pg_config", &["--pkglibdir"]), None);
        let program = Path::new(packages.trim()).join("pgxs/src/test/regress/pg_regress");
        let mut run = Command::new(program);
        run.arg(format!("--inputdir={}", self.folder.display()))
            .arg(format!("--outputdir={}", self.output().display()))
            .arg(format!("--dlpath={}", self.folder.display()))
            .arg(format!("--bindir={}", parts::postgres_bin().display()))
            .arg(format!("--port={}", server.port()))
            .arg(format!("--dbname={DATABASE}"))
            .arg(format!(
                "--schedule={}",
                self.folder.join("parallel_schedule").display()
            ))
            .args([
                "--host=127.0.0.1",
                "--user=postgres",
                "--max-connections=4",
                "--use-existing",
            ])
            .stdin(Stdio::null());
        let output = process::output(run, User::for_postgres());
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(
            text.contains(" tests passed") || text.contains("tests failed"),
            "the suite did not run to its end:\n{text}{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }

    /// Names of the files that the tests have printed into, without folder and ending.
    pub(crate) fn printed(&self) -> Vec<String> {
        let mut names: Vec<String> = std::fs::read_dir(self.output().join("results"))
            .expect("the folder of results")
            .filter_map(|file| {
                let name = file.ok()?.file_name().into_string().ok()?;
                Some(name.strip_suffix(".out")?.to_owned())
            })
            .collect();
        names.sort_unstable();
        names
    }

    /// What a test has printed.
    pub(crate) fn result(&self, name: &str) -> PathBuf {
        self.output().join(format!("results/{name}.out"))
    }

    /// What a test may print: one file, or several for different platforms.
    pub(crate) fn expected(&self, name: &str) -> Vec<PathBuf> {
        std::iter::once(format!("{name}.out"))
            .chain((0..10).map(|variant| format!("{name}_{variant}.out")))
            .map(|file| self.folder.join("expected").join(file))
            .filter(|file| file.exists())
            .collect()
    }

    fn output(&self) -> PathBuf {
        self.folder.join("out")
    }
}

fn command_of_postgres(name: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(parts::postgres_bin().join(name));
    command.args(arguments);
    command
}

fn command(name: &str, arguments: &[&str], further: impl FnOnce(&mut Command)) -> Command {
    let mut command = Command::new(name);
    command.args(arguments);
    further(&mut command);
    command
}
