//! Periods, and the time zone whose calendar they are of.

use std::fmt;

use jiff::tz::TimeZone;
use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::config::nearest::nearest;

/// `period`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum PeriodName {
    Hour,
    Day,
    Month,
}

impl PeriodName {
    /// Its name in the file.
    pub(crate) fn name(self) -> &'static str {
        match self {
            PeriodName::Hour => "hour",
            PeriodName::Day => "day",
            PeriodName::Month => "month",
        }
    }
}

/// `time_zone`
#[derive(Clone, PartialEq)]
pub(crate) struct ZoneName {
    name: String,
    zone: TimeZone,
}

impl fmt::Debug for ZoneName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

impl ZoneName {
    /// That of no place.
    pub(crate) fn utc() -> ZoneName {
        ZoneName {
            name: "UTC".into(),
            zone: TimeZone::UTC,
        }
    }

    /// The zone of a name of the IANA database.
    pub(crate) fn parse(name: &str) -> Result<ZoneName, String> {
        if name == "UTC" {
            return Ok(ZoneName::utc());
        }
        let zones = jiff::tz::db();
        let found = zones.get(name);
        match found {
            Ok(zone) => Ok(ZoneName {
                name: zone.iana_name().unwrap_or(name).to_owned(),
                zone,
            }),
            Err(_) => {
                let known: Vec<String> = zones.available().map(|name| name.to_string()).collect();
                let near = nearest(name, known.iter().map(String::as_str));
                let meant =
                    near.map_or(String::new(), |near| format!(", did you mean \"{near}\"?"));
                Err(format!("unknown time zone \"{name}\"{meant}"))
            }
        }
    }

    /// Its name.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The zone.
    pub(crate) fn zone(&self) -> &TimeZone {
        &self.zone
    }
}

impl<'de> Deserialize<'de> for ZoneName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        ZoneName::parse(&text).map_err(D::Error::custom)
    }
}

impl Serialize for ZoneName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.name)
    }
}
