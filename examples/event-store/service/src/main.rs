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

use std::fmt::Display;
use std::path::PathBuf;
use std::sync::Arc;

use service::problem::Problem;
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
    let partitions = setting::optional("PARTITIONS", "6").parse();
    let partitions = partitions.unwrap_or_else(|_| setting::wrong("PARTITIONS is no number"));
    let topics = Topics::open(&setting::required("KAFKA_BROKERS"), partitions).await?;
    let me = setting::optional("ADVERTISED", &setting::required("LISTEN"));
    let group = setting::optional("GROUP", "account-service");
    let owners = Arc::new(Owners::new(Arc::new(topics), group, me));
    let folder = PathBuf::from(setting::required("STORE"));
    let partitions = Arc::new(Partitions::new(Arc::clone(&owners), folder)?);
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

/// 503: something here does not work; the log has the reason.
fn unavailable(error: impl Display) -> Problem {
    Problem::unavailable("this instance", &error)
}
