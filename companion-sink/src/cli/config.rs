//! `companion-sink config`

use crate::config::{Config, DEFAULT_FILE};
use crate::terminal::print;

/// Prints a file with every key.
pub fn defaults() {
    print(DEFAULT_FILE);
}

/// Prints the effective configuration without its secrets.
pub fn effective(config: &Config) {
    print(&config.to_toml());
}
