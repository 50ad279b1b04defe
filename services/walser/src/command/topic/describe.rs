//! `walser topic describe`.

use std::process::ExitCode;

use serde_json::json;
use walser_proto::v1 as pb;

use super::Done;
use super::show::{records, size, source, state, value};
use crate::args::Form;
use crate::cli::TopicDescribeArgs;
use crate::command::partition::show_partitions;
use crate::command::produce::now_ms;
use crate::error::CliError;
use crate::output::{self, bytes, plural, table};
use crate::records::time::{since, wire_time};
use crate::server::Server;
use crate::{message, topics};

/// A topic with everything that is known of it.
struct Described {
    topic: pb::Topic,
    partitions: Vec<pb::Partition>,
    configs: Vec<pb::ConfigEntry>,
}

pub(super) async fn run(arguments: TopicDescribeArgs) -> Done {
    let server = Server::of(&arguments.output.server)?;
    let mut all = Vec::new();
    for name in topics::matching(&server, &arguments.names).await? {
        let named = arguments.names.contains(&name);
        all.extend(described(&server, (&name, named), arguments.all).await?);
    }
    match arguments.output.output {
        Form::Name => all.iter().for_each(|described| output::data(&described.topic.name)),
        Form::Json => {
            let mut documents = all.iter().map(Described::json).collect::<Result<Vec<_>, _>>()?;
            match documents.len() {
                1 => output::document(&documents.remove(0))?,
                _ => output::document(&documents)?,
            }
        }
        Form::Ndjson => {
            for described in &all {
                output::data(&described.json()?.to_string());
            }
        }
        Form::Table => {
            for (number, described) in all.iter().enumerate() {
                if number > 0 {
                    output::data("");
                }
                described.show();
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// `None`: the topic is gone, and is not named but meant by a pattern.
async fn described(
    server: &Server,
    (name, named): (&str, bool),
    all_configs: bool,
) -> Result<Option<Described>, CliError> {
    let mut client = server.client.topics();
    let found = client.get_topic(pb::GetTopicRequest { name: name.to_owned() }).await;
    let Some(found) = server.answered_of(named, found)? else { return Ok(None) };
    let topic = found.topic.unwrap_or_default();
    let mut partitions = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = pb::ListPartitionsRequest { topic: name.to_owned(), page_token, ..Default::default() };
        let page = server.answered_of(named, client.list_partitions(request).await)?;
        let Some(page) = page else { return Ok(None) };
        partitions.extend(page.partitions.into_iter().filter_map(|info| info.partition));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    let topic_name = name.to_owned();
    let request = pb::ListTopicConfigsRequest { topic: topic_name, overrides_only: !all_configs, ..Default::default() };
    let configs = server.answered_of(named, client.list_topic_configs(request).await)?;
    Ok(configs.map(|configs| Described { topic, partitions, configs: configs.configs }))
}

/// What a partition says of its compactions.
fn compaction_row(number: i32, compaction: &pb::Compaction) -> Vec<String> {
    let closed = compaction.clean_bytes.saturating_add(compaction.dirty_bytes);
    let percent = compaction.dirty_bytes.saturating_mul(100).checked_div(closed).unwrap_or(0);
    let run = compaction.last_run.as_ref();
    let ended = run.and_then(|run| run.end_time).map(|ended| format!("{} ago", since(ended, now_ms())));
    let last = match (compaction.running, ended) {
        (true, _) => "running".to_owned(),
        (false, Some(ended)) => ended,
        (false, None) => "-".to_owned(),
    };
    let of_run =
        |shown: fn(&pb::CompactionRun) -> Option<String>| run.and_then(shown).unwrap_or_else(|| "-".to_owned());
    vec![
        number.to_string(),
        format!("{percent} %"),
        bytes(closed),
        last,
        of_run(|run| Some(bytes(run.bytes_before))),
        of_run(|run| Some(bytes(run.bytes_after))),
        of_run(|run| run.record_count.map(output::count)),
        of_run(|run| run.tombstone_count.map(output::count)),
    ]
}

// === impl Described ===

impl Described {
    fn json(&self) -> Result<serde_json::Value, CliError> {
        Ok(json!({
            "topic": message::json(&self.topic)?,
            "partitions": message::list(&self.partitions)?,
            "configs": message::list(&self.configs)?,
        }))
    }

    fn show(&self) {
        let Self { topic, partitions, configs } = self;
        let stats = topic.stats.unwrap_or_default();
        let (partition_count, replicas) = (i64::from(topic.partition_count), i64::from(topic.replication_factor));
        // Offsets of what compaction has dropped are not used again.
        let compacts = partitions.iter().any(|partition| partition.compaction.is_some());
        let at_most = if compacts && stats.record_count.is_some() { "at most " } else { "" };
        let records = format!("{at_most}{}", records(&stats));
        output::data(&format!(
            "{}  {}\n{} · {} · {} · {}",
            topic.name,
            state(topic),
            plural(partition_count, "partition"),
            plural(replicas, "replica"),
            records,
            size(&stats),
        ));
        if let Some(created) = topic.create_time {
            let ago = since(created, now_ms());
            output::data(&format!("created {}, {} ago\nid      {}", wire_time(created), ago, topic.id));
        }
        output::data("");
        if !configs.is_empty() {
            let row = |entry: &pb::ConfigEntry| vec![entry.name.clone(), value(entry), source(entry)];
            let rows: Vec<_> = configs.iter().map(row).collect();
            output::data(&format!("{}\n", table(&["CONFIG", "VALUE", "SOURCE"], &rows)));
        }
        let compacted = partitions.iter().filter_map(|partition| Some((partition.partition, partition.compaction?)));
        let rows: Vec<_> = compacted.map(|(number, compaction)| compaction_row(number, &compaction)).collect();
        if !rows.is_empty() {
            let names = ["COMPACTION OF", "DIRTY", "OF", "LAST RUN", "BEFORE", "AFTER", "KEYS", "TOMBSTONES"];
            output::data(&format!("{}\n", table(&names, &rows)));
        }
        show_partitions(partitions.iter().map(|partition| (partition.partition.to_string(), partition)));
    }
}
