//! Accounts and their events, with Kafka alone: two topics are the data, each instance has a store of the partitions that it owns.
//!
//! | module | does |
//! |---|---|
//! | [`account`] | what is kept |
//! | [`topics`] | the topics, and which partition an account is in |
//! | [`membership`], [`owners`] | instances share the partitions, and know who has which |
//! | [`partition`] | what an owner does: one thread, requests one after the other |
//! | [`log`], [`store`] | what it writes: a transaction of Kafka, then one of a file |
//! | [`command`] | what may be done |
//! | [`http`], [`list`], [`statistics`] | what can be asked |
//! | [`peers`] | sending requests on to the owner |

mod account;
mod command;
mod http;
mod list;
mod log;
mod membership;
mod owners;
mod partition;
mod peers;
mod statistics;
mod store;
mod topics;

use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use service::{listen, setting};

use crate::http::Service;
use crate::membership::Membership;
use crate::owners::Owners;
use crate::partition::Partitions;
use crate::statistics::Statistics;
use crate::topics::{Result, Topics};

#[tokio::main]
async fn main() {
    if let Err(error) = run().await {
        eprintln!("{error}");
        std::process::exit(1);
    }
}

async fn run() -> Result<()> {
    let brokers = setting::required("KAFKA_BROKERS");
    let topics = Topics::open(&brokers, number("PARTITIONS", "6")).await?;
    let me = setting::optional("ADVERTISED", &setting::required("LISTEN"));
    let group = setting::optional("GROUP", "account-service");
    let owners = Arc::new(Owners::new(Arc::new(topics), group, me));
    let folder = PathBuf::from(setting::required("STORE"));
    let roll_every = Duration::from_secs(number("ROLL_SECONDS", "86400"));
    let partitions = Partitions::new(Arc::clone(&owners), folder, roll_every)?;
    let partitions = Arc::new(partitions);
    let membership = Membership::join(&owners, Arc::clone(&partitions))?;
    let routes = http::routes(Service {
        owners,
        partitions,
        statistics: Arc::new(Statistics {
            address: setting::required("STATISTICS"),
            token_file: setting::optional("STATISTICS_TOKEN_FILE", ""),
        }),
    });
    listen::serve(routes).await?;
    // Requests are answered; others take over.
    tokio::task::spawn_blocking(|| membership.leave()).await?;
    Ok(())
}

/// A setting that is a number.
fn number<T: FromStr>(name: &str, default: &str) -> T {
    let value = setting::optional(name, default).parse();
    value.unwrap_or_else(|_| setting::wrong(&format!("{name} is no number")))
}
