//! Reads the configuration: the file, what the environment overrides, and the files that it names.

mod required;

use std::ops::Deref;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::config::environment::{override_key, overrides};
use crate::config::file::Config;
use crate::config::load::required::{check_sinks, missing};
use crate::config::mistake::{FileText, with_place};
use crate::config::secret::{Secret, read_secret};
use crate::error::{Result, misconfigured};

/// A configuration, and what the files hold that it names.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Loaded {
    config: Config,
    /// Where it was read; none in tests.
    pub(crate) file: Option<PathBuf>,
    /// Of `[kafka] config_file`.
    pub(crate) kafka_files: KafkaFiles,
    /// What `[http] token_file` holds; none without one.
    pub(crate) token: Option<Secret<String>>,
}

/// What Kafka's clients are told besides the brokers.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct KafkaFiles {
    /// librdkafka's properties, in the order of their file.
    pub(crate) properties: Vec<(String, Secret<String>)>,
    /// SHA-256 of the files that the properties name (certificates, keys): one that was renewed is a change.
    pub(crate) named_files: Vec<[u8; 32]>,
}

impl Deref for Loaded {
    type Target = Config;

    fn deref(&self) -> &Config {
        &self.config
    }
}

impl Loaded {
    /// Reads the file (or the first of the usual places), applies the environment and checks everything but rules.
    pub(crate) fn read(given: Option<&Path>) -> Result<Loaded> {
        Loaded::read_for(given, NeededParts::Everything)
    }

    /// Reads the same for a command that needs only `[kafka]`: what is missing elsewhere is nothing to it, and no other file is read.
    pub(crate) fn read_for_kafka(given: Option<&Path>) -> Result<Loaded> {
        Loaded::read_for(given, NeededParts::Kafka)
    }

    fn read_for(given: Option<&Path>, needs: NeededParts) -> Result<Loaded> {
        let path = find(given)?;
        let text = std::fs::read_to_string(&path).map_err(|error| {
            misconfigured(
                format!("cannot read {}: {error}", path.display()),
                "Name the file with --config, or make it readable.",
            )
        })?;
        let name = path.display().to_string();
        let loaded = Loaded::parse_for(&name, &text, overrides(), needs);
        let mut loaded = loaded.map_err(|error| with_place(&path, error))?;
        loaded.file = Some(path);
        Ok(loaded)
    }

    /// Parses the content of a file and the overrides `(A__B, value)`.
    #[cfg(test)]
    pub(crate) fn parse(
        file_name: &str,
        text: &str,
        environment: impl Iterator<Item = (String, String)>,
    ) -> Result<Loaded> {
        Loaded::parse_for(file_name, text, environment, NeededParts::Everything)
    }

    fn parse_for(
        file_name: &str,
        text: &str,
        environment: impl Iterator<Item = (String, String)>,
        needs: NeededParts,
    ) -> Result<Loaded> {
        let text = FileText::new(file_name, text);
        let mut table = text.parse()?;
        for (name, value) in environment {
            override_key(&mut table, &name, value)?;
        }
        let missing_kind = |(_, sink): &(&String, &toml::Value)| sink.get("kind").is_none();
        if let Some(toml::Value::Table(sinks)) = table.get("sink")
            && let Some((name, _)) = sinks.iter().find(missing_kind)
        {
            return Err(misconfigured(
                format!("{file_name}: sink.{name}.kind is missing"),
                "Set it to mongo_history, postgres, mongo_view, webhook, mail or statistics.",
            ));
        }
        let mut config = Config::deserialize(table.clone())
            .map_err(|error| text.wrong_value(&table, error.message()))?;
        for (name, sink) in &mut config.sinks {
            sink.fill_in(name);
        }
        // Every key that there is, is among those that the configuration has.
        let known = toml::Table::try_from(&config).map_err(|error| {
            misconfigured(error.to_string(), "Report this with the configuration.")
        })?;
        text.check_keys(&table, &known)?;
        config.check_kafka(file_name)?;
        match needs {
            NeededParts::Kafka => config.with_kafka_files(),
            NeededParts::Everything => {
                check_sinks(&config, file_name)?;
                config.with_files(file_name)
            }
        }
    }

    /// This configuration with the parts of `read` that take effect in a running process: rules, and what the files with
    /// secrets hold.
    pub(crate) fn with_live_parts_of(&self, read: &Loaded) -> Loaded {
        let mut next = self.clone();
        next.config.rules.clone_from(&read.rules);
        if next.kafka.config_file == read.kafka.config_file {
            next.kafka_files.clone_from(&read.kafka_files);
        }
        if next.http.token_file == read.http.token_file {
            next.token.clone_from(&read.token);
        }
        let source_file = &next.source.url_file;
        if !source_file.is_empty() && *source_file == read.source.url_file {
            next.config.source.url.clone_from(&read.source.url);
        }
        for (name, sink) in &mut next.config.sinks {
            let read = read.sinks.get(name);
            let same_file = read.filter(|read| read.url_file == sink.url_file);
            if let Some(read) = same_file.filter(|read| !read.url_file.is_empty()) {
                sink.url.clone_from(&read.url);
            }
        }
        next
    }
}

/// What of the configuration a command uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum NeededParts {
    Everything,
    Kafka,
}

impl Config {
    /// Names what every command requires.
    fn check_kafka(&self, file_name: &str) -> Result<()> {
        match self.kafka.brokers.is_empty() {
            true => Err(missing(file_name, "kafka.brokers")),
            false => Ok(()),
        }
    }

    /// Reads the files that Kafka's clients need.
    fn with_kafka_files(self) -> Result<Loaded> {
        let mut kafka_files = KafkaFiles::default();
        if !self.kafka.config_file.is_empty() {
            kafka_files.properties = kafka_properties(Path::new(&self.kafka.config_file))?;
            kafka_files.named_files = named_files(&kafka_files.properties);
        }
        Ok(Loaded {
            config: self,
            file: None,
            kafka_files,
            token: None,
        })
    }

    /// Reads all files that it names.
    fn with_files(mut self, file_name: &str) -> Result<Loaded> {
        if !self.source.url_file.is_empty() {
            let url = read_secret(Path::new(&self.source.url_file))?;
            self.source.url = url.trim().into();
        }
        let token = match self.http.token_file.as_str() {
            "" => None,
            file => Some(token(file)?),
        };
        for (name, sink) in &mut self.sinks {
            if !sink.url_file.is_empty() {
                sink.url = read_secret(Path::new(&sink.url_file))?.trim().into();
            }
            if sink.url.is_empty() && sink.has_url() {
                return Err(missing(file_name, &format!("sink.{name}.url")));
            }
        }
        let loaded = self.with_kafka_files()?;
        Ok(Loaded { token, ..loaded })
    }
}

fn token(file: &str) -> Result<Secret<String>> {
    let token = read_secret(Path::new(file))?.trim().to_owned();
    if token.is_empty() {
        return Err(misconfigured(
            format!("{file} is empty"),
            "Write a long random text into it, such as that of `openssl rand -hex 32`.",
        ));
    }
    Ok(Secret::new(token))
}

fn find(given: Option<&Path>) -> Result<PathBuf> {
    if let Some(path) = given {
        return Ok(path.to_owned());
    }
    ["companion-sink.toml", "/etc/companion-sink.toml"]
        .into_iter()
        .map(PathBuf::from)
        .find(|path| path.exists())
        .ok_or_else(|| {
            misconfigured(
                "no configuration: neither ./companion-sink.toml nor /etc/companion-sink.toml is there",
                "Write one (`companion-sink config --defaults > companion-sink.toml`), or name it with --config.",
            )
        })
}

/// librdkafka's properties in a file.
fn kafka_properties(path: &Path) -> Result<Vec<(String, Secret<String>)>> {
    let mut properties = Vec::new();
    for (number, line) in read_secret(path)?.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (name, value) = line.split_once('=').ok_or_else(|| {
            misconfigured(
                format!("{}:{}: not a property", path.display(), number + 1),
                "Write key=value, one on each line.",
            )
        })?;
        properties.push((name.trim().to_owned(), Secret::new(value.trim().to_owned())));
    }
    Ok(properties)
}

/// What the files are that librdkafka's properties name. One that cannot be read is librdkafka's to complain about.
fn named_files(properties: &[(String, Secret<String>)]) -> Vec<[u8; 32]> {
    properties
        .iter()
        .filter(|(name, _)| name.ends_with(".location"))
        .filter_map(|(_, path)| std::fs::read(path.reveal()).ok())
        .map(|content| openssl::sha::sha256(&content))
        .collect()
}

#[cfg(test)]
mod tests;
