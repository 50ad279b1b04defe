//! `walser topic`.

use std::collections::HashMap;
use std::io::{IsTerminal as _, Write as _};
use std::process::ExitCode;

use walser_client::{Client, Failure};
use walser_proto::v1 as pb;

use crate::cli::{Form, OutputArgs, ServerArgs, TopicCommand, TopicCreateArgs, TopicDescribeArgs};
use crate::error::CliError;
use crate::output::{self, bytes, count, plural, table};

type Done = Result<ExitCode, CliError>;

/// Topics asked for at once.
const PAGE: i32 = 1000;

pub(crate) async fn run(command: TopicCommand) -> Done {
    match command {
        TopicCommand::Create(arguments) => create(arguments).await,
        TopicCommand::List(arguments) => list(arguments).await,
        TopicCommand::Describe(arguments) => describe(arguments).await,
        TopicCommand::Alter(arguments) => {
            let config = pairs(&arguments.config)?;
            let request = pb::UpdateTopicRequest {
                name: arguments.name,
                config_updates: config,
                config_resets: arguments.unset,
                ..Default::default()
            };
            let client = Client::new(&arguments.output.server.server)?;
            let answer = client.topics().update_topic(request).await;
            let topic = answered(answer, &arguments.output.server)?.topic.unwrap_or_default();
            show_row(&arguments.output, &topic, "changed")
        }
        TopicCommand::Delete(arguments) => {
            for name in &arguments.names {
                delete(name, arguments.yes, &arguments.server).await?;
            }
            Ok(ExitCode::SUCCESS)
        }
        TopicCommand::AddPartitions(arguments) => {
            let request = pb::AddPartitionsRequest {
                topic: arguments.name,
                partition_count: arguments.partitions,
                validate_only: false,
            };
            let client = Client::new(&arguments.output.server.server)?;
            let answer = client.topics().add_partitions(request).await;
            let topic = answered(answer, &arguments.output.server)?.topic.unwrap_or_default();
            show_row(&arguments.output, &topic, "changed")
        }
        TopicCommand::Truncate(arguments) => {
            confirm(&arguments.name, arguments.yes, "Records before the position are deleted for ever.")?;
            let request = pb::TruncateTopicRequest {
                topic: arguments.name.clone(),
                partitions: arguments.partition,
                before: Some(arguments.before.wire()),
                validate_only: false,
            };
            let client = Client::new(&arguments.server.server)?;
            let answer = client.topics().truncate_topic(request).await;
            let answer = answered(answer, &arguments.server)?;
            let row = |start: &pb::RecordPosition| vec![start.partition.to_string(), count(start.offset)];
            let rows: Vec<_> = answer.log_start_offsets.iter().map(row).collect();
            output::data(&table(&["PARTITION", "FIRST"], &rows));
            Ok(ExitCode::SUCCESS)
        }
        TopicCommand::Config(arguments) => {
            let client = Client::new(&arguments.output.server.server)?;
            let request =
                pb::ListTopicConfigsRequest { topic: arguments.name.unwrap_or_default(), ..Default::default() };
            let answer = answered(client.topics().list_topic_configs(request).await, &arguments.output.server)?;
            if arguments.output.output == Form::Json {
                return show_json(&answer);
            }
            let row = |entry: &pb::ConfigEntry| {
                vec![entry.name.clone(), entry.value.clone(), source(entry), entry.documentation.clone()]
            };
            let rows: Vec<_> = answer.configs.iter().map(row).collect();
            output::data(&table(&["CONFIG", "VALUE", "SOURCE", "MEANING"], &rows));
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// The answer, or the error as people see it.
pub(crate) fn answered<T>(
    answer: Result<tonic::Response<T>, tonic::Status>,
    server: &ServerArgs,
) -> Result<T, CliError> {
    match answer {
        Ok(answer) => Ok(answer.into_inner()),
        Err(status) => Err(CliError::server(Failure::from(status), &server.server)),
    }
}

/// A message as JSON, as the proto files define it.
pub(crate) fn show_json(message: &impl serde::Serialize) -> Done {
    let text = serde_json::to_string_pretty(message).map_err(|error| CliError::failed(error.to_string()))?;
    output::data(&text);
    Ok(ExitCode::SUCCESS)
}

fn pairs(texts: &[String]) -> Result<HashMap<String, String>, CliError> {
    let pair = |text: &String| {
        let split = text.split_once('=').map(|(key, value)| (key.to_owned(), value.to_owned()));
        split.ok_or_else(|| CliError::usage(format!("\"{text}\" is not KEY=VALUE")))
    };
    texts.iter().map(pair).collect()
}

fn source(entry: &pb::ConfigEntry) -> String {
    match entry.source() {
        pb::ConfigSource::Topic => "topic",
        pb::ConfigSource::Cluster => "cluster",
        pb::ConfigSource::Node => "node",
        pb::ConfigSource::Default | pb::ConfigSource::Unspecified => "default",
    }
    .to_owned()
}

/// The state of a topic in a word.
fn state(topic: &pb::Topic) -> &'static str {
    match topic.state() {
        pb::TopicState::Ready => "ready",
        pb::TopicState::Creating => "being created",
        pb::TopicState::Deleting => "being deleted",
        pb::TopicState::Degraded => "degraded",
        pb::TopicState::Unspecified => "unknown",
    }
}

/// A number of a table, which may be unknown.
fn known(number: Option<i64>, shown: fn(i64) -> String) -> String {
    number.map_or_else(|| "?".to_owned(), shown)
}

/// How many records a topic has, as far as it is known.
fn records(stats: &pb::TopicStats) -> String {
    let counted = |number| plural(number, "record");
    stats.record_count.map_or_else(|| "an unknown number of records".to_owned(), counted)
}

/// How large a topic is, as far as it is known.
fn size(stats: &pb::TopicStats) -> String {
    stats.size_bytes.map_or_else(|| "of unknown size".to_owned(), bytes)
}

fn show_row(arguments: &OutputArgs, topic: &pb::Topic, status: &str) -> Done {
    if arguments.output == Form::Json {
        return show_json(topic);
    }
    let (partitions, replicas) = (topic.partition_count.to_string(), topic.replication_factor.to_string());
    let row = vec![topic.name.clone(), partitions, replicas, status.to_owned()];
    output::data(&table(&["TOPIC", "PARTITIONS", "REPLICAS", "STATUS"], &[row]));
    Ok(ExitCode::SUCCESS)
}

async fn create(arguments: TopicCreateArgs) -> Done {
    let client = Client::new(&arguments.output.server.server)?;
    let topic = pb::Topic {
        name: arguments.name,
        partition_count: arguments.partitions.unwrap_or(0),
        replication_factor: arguments.replicas,
        config: pairs(&arguments.config)?,
        ..Default::default()
    };
    let known = if arguments.if_not_exists {
        let found = client.topics().get_topic(pb::GetTopicRequest { name: topic.name.clone() }).await;
        found.is_ok()
    } else {
        false
    };
    let request =
        pb::CreateTopicRequest { topic: Some(topic), allow_existing: arguments.if_not_exists, validate_only: false };
    let answer = answered(client.topics().create_topic(request).await, &arguments.output.server)?;
    show_row(&arguments.output, &answer.topic.unwrap_or_default(), if known { "exists" } else { "created" })
}

async fn list(arguments: OutputArgs) -> Done {
    let client = Client::new(&arguments.server.server)?;
    let mut all = pb::ListTopicsResponse::default();
    let mut page_token = String::new();
    loop {
        let request = pb::ListTopicsRequest { page_size: PAGE, page_token, include_stats: true, ..Default::default() };
        let page = answered(client.topics().list_topics(request).await, &arguments.server)?;
        all.topics.extend(page.topics);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    if arguments.output == Form::Json {
        return show_json(&all);
    }
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
    let rows: Vec<_> = all.topics.iter().map(row).collect();
    output::data(&table(&["TOPIC", "PARTITIONS", "REPLICAS", "RECORDS", "SIZE", "STATE"], &rows));
    Ok(ExitCode::SUCCESS)
}

async fn describe(arguments: TopicDescribeArgs) -> Done {
    let server = &arguments.output.server;
    let client = Client::new(&server.server)?;
    let request = pb::GetTopicRequest { name: arguments.name.clone() };
    let topic = answered(client.topics().get_topic(request).await, server)?.topic.unwrap_or_default();
    let mut partitions = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = pb::ListPartitionsRequest { topic: arguments.name.clone(), page_token, ..Default::default() };
        let page = answered(client.topics().list_partitions(request).await, server)?;
        partitions.extend(page.partitions.into_iter().filter_map(|info| info.partition));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    let request = pb::ListTopicConfigsRequest {
        topic: arguments.name.clone(),
        overrides_only: !arguments.all,
        ..Default::default()
    };
    let configs = answered(client.topics().list_topic_configs(request).await, server)?.configs;
    if arguments.output.output == Form::Json {
        return show_json(&serde_json::json!({ "topic": topic, "partitions": partitions, "configs": configs }));
    }
    let stats = topic.stats.unwrap_or_default();
    let created = topic.create_time.map(|time| output::time(time.seconds * 1000)).unwrap_or_default();
    output::data(&format!(
        "{}  {} · {} · {} · {} · {} · created {created}\n",
        topic.name,
        state(&topic),
        plural(i64::from(topic.partition_count), "partition"),
        plural(i64::from(topic.replication_factor), "replica"),
        records(&stats),
        size(&stats),
    ));
    if !configs.is_empty() {
        let row = |entry: &pb::ConfigEntry| vec![entry.name.clone(), entry.value.clone(), source(entry)];
        let rows: Vec<_> = configs.iter().map(row).collect();
        output::data(&format!("{}\n", table(&["CONFIG", "VALUE", "SOURCE"], &rows)));
    }
    let ids = |nodes: &[i32]| nodes.iter().map(i32::to_string).collect::<Vec<_>>().join(",");
    let row = |partition: &pb::Partition| {
        vec![
            partition.partition.to_string(),
            partition.leader.map_or_else(|| "none !".to_owned(), |leader| leader.to_string()),
            ids(&partition.replicas),
            ids(&partition.isr),
            known(partition.log_start_offset, count),
            known(partition.high_watermark, count),
            known(partition.size_bytes, bytes),
        ]
    };
    let rows: Vec<_> = partitions.iter().map(row).collect();
    output::data(&table(&["PARTITION", "LEADER", "REPLICAS", "IN SYNC", "FIRST", "NEXT", "SIZE"], &rows));
    for partition in &partitions {
        if let Some(problem) = &partition.problem {
            let repair = if partition.damaged { "; see `walser partition repair`" } else { "" };
            output::data(&format!("  ! partition {}: {problem}{repair}", partition.partition));
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Asks for the name before something is lost.
fn confirm(name: &str, yes: bool, what: &str) -> Result<(), CliError> {
    if yes {
        return Ok(());
    }
    if !std::io::stdin().is_terminal() {
        let error = CliError::usage(format!("{what} There is no terminal to ask on"));
        return Err(error.with_help("say --yes if you mean it"));
    }
    output::note(what);
    let _ = write!(std::io::stderr(), "Type the name of the topic to continue: ");
    let mut typed = String::new();
    std::io::stdin().read_line(&mut typed)?;
    if typed.trim() == name { Ok(()) } else { Err(CliError::failed("the name does not match: nothing was done")) }
}

async fn delete(name: &str, yes: bool, server: &ServerArgs) -> Result<(), CliError> {
    let client = Client::new(&server.server)?;
    let request = pb::GetTopicRequest { name: name.to_owned() };
    let topic = answered(client.topics().get_topic(request).await, server)?.topic.unwrap_or_default();
    let stats = topic.stats.unwrap_or_default();
    confirm(name, yes, &format!("Topic \"{name}\" has {} ({}).", records(&stats), size(&stats)))?;
    let request = pb::DeleteTopicRequest { name: name.to_owned(), etag: String::new() };
    let answer = answered(client.topics().delete_topic(request).await, server)?;
    let operation = answer.operation.unwrap_or_default();
    output::data(&format!("deleted {name}  [{}]", operation.id));
    Ok(())
}
