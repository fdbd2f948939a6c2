//! The refused events of a replica, in the state of its target.

use tokio_postgres::Client;

use crate::error::Result;
use crate::rejected::page::PagePart;
use crate::rejected::parked_event::{Action, Decider, Decision, Parked};
use crate::sink::postgres;
use crate::sink::postgres::parked::decisions::Decisions;
use crate::sink::postgres::parked::store::ParkedEvents;

/// The state of one replica.
pub(crate) struct ReplicaStore {
    /// The sink in the state.
    state_name: String,
    /// Quoted.
    state_schema: String,
    client: Client,
}

impl ReplicaStore {
    /// Connects for the sink `name`; none if there is no state yet.
    pub(crate) async fn open(
        url: &str,
        name: &str,
        state_name: &str,
        state_schema: &str,
    ) -> Result<Option<ReplicaStore>> {
        let replica = ReplicaStore {
            state_name: state_name.to_owned(),
            state_schema: crate::sink::postgres::schema::target::quoted(state_schema),
            client: postgres::open(url, name, &format!("sink.{name}.url")).await?,
        };
        let is_there = replica.events().are_there(&replica.client).await?;
        Ok(is_there.then_some(replica))
    }

    fn events(&self) -> ParkedEvents<'_> {
        ParkedEvents {
            schema: &self.state_schema,
            sink: &self.state_name,
        }
    }

    fn decisions(&self) -> Decisions<'_> {
        Decisions {
            schema: &self.state_schema,
            sink: &self.state_name,
        }
    }

    /// The refused events whose id begins with `id`, the oldest first; with `reason` those of that reason.
    pub(crate) async fn refused(
        &self,
        id: &str,
        reason: Option<&str>,
        part: Option<&PagePart>,
    ) -> Result<Vec<Parked>> {
        let (after, limit) = match part {
            Some(PagePart::Some(after, limit)) => (after.as_ref(), Some(*limit)),
            _ => (None, None),
        };
        self.events()
            .refused(&self.client, id, reason, after, limit)
            .await
    }

    /// What was decided about an event, the oldest first.
    pub(crate) async fn actions(&self, id: &str) -> Result<Vec<Action>> {
        self.decisions().actions(&self.client, id).await
    }

    /// Notes a decision, and tells the active instance.
    pub(crate) async fn decide(
        &self,
        id: &str,
        decision: &Decision,
        decider: Decider<'_>,
    ) -> Result<()> {
        self.decisions()
            .decide(&self.client, id, decision, decider)
            .await
    }
}
