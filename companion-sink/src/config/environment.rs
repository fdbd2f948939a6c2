//! Keys that the environment overrides: `COMPANION_SINK__A__B` is the key `a.b`.

use crate::error::{Result, misconfigured};

const PREFIX: &str = "COMPANION_SINK__";

/// The overrides of this process: names without the prefix, and values.
pub(crate) fn overrides() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os().filter_map(|(name, value)| {
        let name = name.into_string().ok()?;
        Some((
            name.strip_prefix(PREFIX)?.to_owned(),
            value.to_string_lossy().into_owned(),
        ))
    })
}

/// Sets the key `A__B__C` of the environment to `value`.
pub(crate) fn override_key(table: &mut toml::Table, name: &str, value: String) -> Result<()> {
    let path: Vec<String> = name.split("__").map(str::to_lowercase).collect();
    let Some((last, parents)) = path.split_last() else {
        return Ok(());
    };
    let variable = format!("{PREFIX}{name}");
    let mut current = table;
    for part in parents {
        // Names of sinks may hold capitals; the environment does not tell.
        let existing = current
            .keys()
            .find(|key| key.to_lowercase() == *part)
            .cloned();
        current = current
            .entry(existing.unwrap_or_else(|| part.clone()))
            .or_insert_with(|| toml::Value::Table(toml::Table::new()))
            .as_table_mut()
            .ok_or_else(|| {
                misconfigured(
                    format!("{variable}: {part} is not a table"),
                    "Correct the variable's name, or unset it.",
                )
            })?;
    }
    // What reads as a TOML value of another kind than text is one: true, 500, ["a", "b"], { rows = 5 }.
    let parsed = format!("value = {value}").parse::<toml::Table>().ok();
    let typed = parsed
        .and_then(|mut table| table.remove("value"))
        .filter(|value| !matches!(value, toml::Value::Datetime(_)));
    current.insert(last.clone(), typed.unwrap_or(toml::Value::String(value)));
    Ok(())
}
