//! Topics as they are shown.

use std::process::ExitCode;

use prost::{Message, Name};
use walser_model::{show_bytes, show_duration_ms};
use walser_proto::v1 as pb;

use super::Done;
use super::each::Dealt;
use crate::args::Form;
use crate::error::CliError;
use crate::message;
use crate::output::{self, bytes, count, plural, table};

/// One JSON object on a line for each.
pub(crate) fn lines<M: Message + Name>(messages: &[M]) -> Result<(), CliError> {
    for message in messages {
        output::data(&message::json(message)?.to_string());
    }
    Ok(())
}

/// Topics that a command has dealt with, and what became of each.
pub(super) fn show_changed(form: Form, dealt: Dealt<(pb::Topic, &str)>) -> Done {
    let changed = &dealt.done;
    match (form, &changed[..]) {
        (_, []) => {}
        (Form::Name, _) => changed.iter().for_each(|(topic, _)| output::data(&topic.name)),
        (Form::Json, [(topic, _)]) => output::document(&message::json(topic)?)?,
        (Form::Json, _) => {
            let topics = changed.iter().map(|(topic, _)| message::json(topic)).collect::<Result<Vec<_>, _>>()?;
            output::document(&serde_json::json!({ "topics": topics }))?;
        }
        (Form::Ndjson, _) => {
            for (topic, _) in changed {
                output::data(&message::json(topic)?.to_string());
            }
        }
        (Form::Table, _) => {
            let row = |(topic, status): &(pb::Topic, &str)| {
                let (partitions, replicas) = (topic.partition_count.to_string(), topic.replication_factor.to_string());
                vec![topic.name.clone(), partitions, replicas, (*status).to_owned()]
            };
            let rows: Vec<_> = changed.iter().map(row).collect();
            output::data(&table(&["TOPIC", "PARTITIONS", "REPLICAS", "STATUS"], &rows));
        }
    }
    dealt.error().map_or(Ok(ExitCode::SUCCESS), Err)
}

/// All topics that were found.
pub(super) fn show_list(form: Form, topics: &[pb::Topic]) -> Done {
    match form {
        Form::Name => topics.iter().for_each(|topic| output::data(&topic.name)),
        Form::Json => output::document(&serde_json::json!({ "topics": message::list(topics)? }))?,
        Form::Ndjson => lines(topics)?,
        Form::Table => {
            let row = |topic: &pb::Topic| {
                let stats = topic.stats.unwrap_or_default();
                vec![
                    topic.name.clone(),
                    topic.partition_count.to_string(),
                    topic.replication_factor.to_string(),
                    known(stats.record_count, count),
                    known(stats.size_bytes, bytes),
                    state(topic).to_owned(),
                ]
            };
            let rows: Vec<_> = topics.iter().map(row).collect();
            output::data(&table(&["TOPIC", "PARTITIONS", "REPLICAS", "RECORDS", "SIZE", "STATE"], &rows));
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The value of a setting as people write it: `7d`, `1GiB`.
pub(super) fn value(entry: &pb::ConfigEntry) -> String {
    match (entry.r#type(), entry.value.parse()) {
        (pb::ConfigType::DurationMs, Ok(millis)) => show_duration_ms(millis),
        (pb::ConfigType::Bytes, Ok(bytes)) => show_bytes(bytes),
        _ => entry.value.clone(),
    }
}

pub(super) fn source(entry: &pb::ConfigEntry) -> String {
    match entry.source() {
        pb::ConfigSource::Topic => "topic",
        pb::ConfigSource::Cluster => "cluster",
        pb::ConfigSource::Node => "node",
        pb::ConfigSource::Default | pb::ConfigSource::Unspecified => "default",
    }
    .to_owned()
}

/// Shows settings with what they mean.
pub(crate) fn show_configs(form: Form, configs: &[pb::ConfigEntry]) -> Result<(), CliError> {
    match form {
        Form::Json => output::document(&serde_json::json!({ "configs": message::list(configs)? }))?,
        Form::Ndjson => {
            for entry in configs {
                output::data(&message::json(entry)?.to_string());
            }
        }
        Form::Name => configs.iter().for_each(|entry| output::data(&entry.name)),
        Form::Table => {
            for entry in configs {
                output::data(&format!("{} = {}  ({})", entry.name, value(entry), source(entry)));
                output::data(&output::wrapped(&entry.documentation, 4));
            }
        }
    }
    Ok(())
}

/// The state of a topic in a word.
pub(super) fn state(topic: &pb::Topic) -> &'static str {
    let lacking = topic.stats.as_ref().is_some_and(|stats| stats.under_replicated_count > 0);
    match topic.state() {
        pb::TopicState::Ready if lacking => "under-replicated",
        pb::TopicState::Ready => "ready",
        pb::TopicState::Creating => "being created",
        pb::TopicState::Deleting => "being deleted",
        pb::TopicState::Degraded => "degraded",
        pb::TopicState::Unspecified => "unknown",
    }
}

/// A number of a table, which may be unknown.
pub(crate) fn known(number: Option<i64>, shown: fn(i64) -> String) -> String {
    number.map_or_else(|| "?".to_owned(), shown)
}

/// How many records a topic has, as far as it is known.
pub(super) fn records(stats: &pb::TopicStats) -> String {
    let counted = |number| plural(number, "record");
    stats.record_count.map_or_else(|| "an unknown number of records".to_owned(), counted)
}

/// How large a topic is, as far as it is known.
pub(super) fn size(stats: &pb::TopicStats) -> String {
    stats.size_bytes.map_or_else(|| "of unknown size".to_owned(), bytes)
}
