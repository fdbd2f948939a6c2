//! `companion-sink config`

use crate::config::{Config, DEFAULT_FILE};
use crate::error::{Result, misconfigured};
use crate::terminal::print;

/// Prints a file with every key.
pub(crate) fn defaults() {
    print(DEFAULT_FILE);
}

/// Prints the effective configuration without its secrets.
pub(crate) fn effective(config: &Config) -> Result<()> {
    let text = toml::to_string(config)
        .map_err(|error| misconfigured(error.to_string(), "Report this with the configuration."))?;
    print(&text);
    Ok(())
}
