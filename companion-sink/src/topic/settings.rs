//! How long Kafka keeps the records of topics.

use std::collections::HashMap;
use std::time::Duration;

use rdkafka::admin::{AdminClient, AdminOptions, OwnedResourceSpecifier, ResourceSpecifier};
use rdkafka::client::DefaultClientContext;

use crate::config::Loaded;
use crate::error::Result;
use crate::kafka::client;
use crate::kafka::client::configuration_error;

const TIMEOUT: Duration = Duration::from_secs(10);
/// Topics in one question.
const TOGETHER: usize = 200;

/// What a topic's settings say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct TopicSettings {
    /// `delete`, `compact` or both.
    pub(crate) cleanup: Option<String>,
    /// Milliseconds; -1 for ever.
    pub(crate) retention_ms: Option<i64>,
}

/// The settings of these topics; of those that Kafka does not show them, for want of a right, there are none.
pub(crate) async fn settings(
    config: &Loaded,
    topics: &[&str],
) -> Result<HashMap<String, TopicSettings>> {
    let admin: AdminClient<DefaultClientContext> = client::base(config)
        .create()
        .map_err(|error| configuration_error(&error))?;
    let options = AdminOptions::new().request_timeout(Some(TIMEOUT));
    let mut all = HashMap::new();
    for some in topics.chunks(TOGETHER) {
        let asked: Vec<ResourceSpecifier<'_>> = some
            .iter()
            .map(|topic| ResourceSpecifier::Topic(topic))
            .collect();
        let answers = match admin.describe_configs(&asked, &options).await {
            Ok(answers) => answers,
            Err(error) => {
                tracing::debug!(%error, "settings of topics");
                continue;
            }
        };
        for answer in answers.into_iter().flatten() {
            let value = |name: &str| answer.get(name).and_then(|entry| entry.value.clone());
            let settings = TopicSettings {
                cleanup: value("cleanup.policy"),
                retention_ms: value("retention.ms").and_then(|text| text.parse().ok()),
            };
            if let OwnedResourceSpecifier::Topic(topic) = answer.specifier {
                all.insert(topic, settings);
            }
        }
    }
    Ok(all)
}
