//! What is wrong with the views of a configuration.

use crate::config::topic_pattern::{follows, matches};
use crate::config::{Config, Kind, MongoViewSettings, SinkSettings};
use crate::error::{Result, misconfigured};
use crate::sink::mongo_history::tables::admission::may_be_written;
use crate::sink::mongo_view::names::{collection, own_collections};
use crate::sink::mongo_view::plan::plan_of;

/// Fails for a view that cannot be meant, or whose collections another sink has.
pub(crate) fn check(config: &Config) -> Result<()> {
    for (name, sink) in &config.sinks {
        let Kind::MongoView(settings) = &sink.kind else {
            continue;
        };
        let plan = plan_of(name, settings)?;
        if let Some(own) = &plan.own
            && !follows(&sink.topics, &own.topic)
        {
            return Err(misconfigured(
                format!("sink.{name}.root_topic: topics does not have {}", own.topic),
                "Add it there.",
            ));
        }
        let of_documents = collection(name, settings);
        if !may_be_written(&of_documents) {
            return Err(misconfigured(
                format!("sink.{name}.collection: \"{of_documents}\" is not a view's"),
                "Give it a name that does not begin with companion_ or system., and has no $.",
            ));
        }
        for index in &settings.indexes {
            let is_way = |way: &toml::Value| matches!(way.as_integer(), Some(1 | -1));
            if index.keys.is_empty() || !index.keys.values().all(is_way) {
                return Err(misconfigured(
                    format!("sink.{name}.indexes: an index has fields, each with 1 or -1"),
                    "Write indexes = [{ keys = { \"customer.name\" = 1 } }].",
                ));
            }
        }
        let others = config.sinks.iter().filter(|(other, _)| *other != name);
        for (other, other_sink) in others {
            if has_collections_of(name, (sink, settings), other, other_sink) {
                return Err(misconfigured(
                    format!(
                        "sink.{name}.collection: sink {other} writes into {of_documents}, or into what is kept beside it, as well"
                    ),
                    "Give one of them another collection, or another database.",
                ));
            }
        }
    }
    Ok(())
}

/// Whether `other` writes into the collections of the view `name`.
fn has_collections_of(
    name: &str,
    (sink, settings): (&SinkSettings, &MongoViewSettings),
    other: &str,
    other_sink: &SinkSettings,
) -> bool {
    let mut own = own_collections(name, settings).into_iter();
    match &other_sink.kind {
        Kind::MongoView(others) => {
            let theirs = own_collections(other, others);
            sink.url == other_sink.url
                && settings.database == others.database
                && own.any(|collection| theirs.contains(&collection))
        }
        Kind::MongoHistory(history) => {
            let pattern = as_pattern(&history.collection);
            sink.url == other_sink.url
                && settings.database == history.database
                && own.any(|collection| matches(&pattern, &collection))
        }
        Kind::Postgres(_) | Kind::Webhook(_) | Kind::Mail(_) | Kind::Statistics(_) => false,
    }
}

/// A template with `*` for each of its names in braces.
fn as_pattern(template: &str) -> String {
    let mut pattern = String::new();
    let mut rest = template;
    while let Some((before, behind)) = rest.split_once('{') {
        pattern.push_str(before);
        pattern.push('*');
        rest = behind.split_once('}').map_or("", |(_, rest)| rest);
    }
    pattern + rest
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Loaded;

    fn told(sinks: &str) -> Option<String> {
        let text = format!("kafka.brokers = \"b\"\n{sinks}");
        let config = Loaded::parse("f.toml", &text, std::iter::empty()).expect("a configuration");
        check(&config).err().map(|error| error.message)
    }

    const VIEW: &str = "kind = \"mongo_view\"\ntopics = [\"*\"]\nurl = \"mongodb://h\"\nroot = \"public.orders\"\n";

    #[test]
    fn collections_belong_to_one_sink() {
        assert_eq!(told(&format!("[sink.a]\n{VIEW}[sink.b]\n{VIEW}")), None);
        let twice = told(&format!(
            "[sink.a]\n{VIEW}[sink.b]\n{VIEW}collection = \"a\"\n"
        ));
        assert!(twice.unwrap().contains("sink b writes into a"));
        let rows = told(&format!(
            "[sink.a]\n{VIEW}[sink.b]\n{VIEW}collection = \"a_rows\"\n"
        ));
        assert!(rows.is_some());
        let history =
            "[sink.h]\nkind = \"mongo_history\"\ntopics = [\"*\"]\nurl = \"mongodb://h\"\n";
        let with = |more: &str| told(&format!("{history}[sink.x_history]\n{VIEW}{more}"));
        assert_eq!(with(""), None);
        assert!(with("database = \"history\"\n").is_some());
        assert!(told(&format!("[sink.a]\n{VIEW}collection = \"companion_x\"\n")).is_some());
        let index = |keys: &str| {
            told(&format!(
                "[sink.a]\n{VIEW}indexes = [{{ keys = {keys} }}]\n"
            ))
        };
        assert_eq!(index("{ \"a.b\" = 1, c = -1 }"), None);
        assert!(index("{}").is_some() && index("{ a = 2 }").is_some());
    }

    #[test]
    fn a_template_is_a_pattern() {
        assert_eq!(as_pattern("{schema_}{table}_history"), "**_history");
        assert_eq!(as_pattern("all"), "all");
    }
}
