//! `walser topic`.

mod describe;
mod each;
mod show;

use std::collections::HashMap;
use std::process::ExitCode;

use walser_model::RESERVED_PREFIX;
use walser_proto::v1 as pb;

use self::each::{Dealt, each};
use self::show::{show_changed, show_list, size};
use super::confirm::confirm;
use crate::args::Form;
use crate::cli::{
    TopicAddPartitionsArgs, TopicAlterArgs, TopicCommand, TopicConfigArgs, TopicCreateArgs, TopicDeleteArgs,
    TopicListArgs, TopicTruncateArgs,
};
use crate::error::CliError;
use crate::names::Named;
use crate::output::{self, count, table};
use crate::server::Server;
use crate::{message, topics};
pub(crate) use show::{known, lines, show_configs};

type Done = Result<ExitCode, CliError>;

pub(crate) async fn run(command: TopicCommand) -> Done {
    match command {
        TopicCommand::Create(arguments) => create(arguments).await,
        TopicCommand::List(arguments) => list(arguments).await,
        TopicCommand::Describe(arguments) => describe::run(arguments).await,
        TopicCommand::Alter(arguments) => alter(arguments).await,
        TopicCommand::Delete(arguments) => delete(arguments).await,
        TopicCommand::AddPartitions(arguments) => add_partitions(arguments).await,
        TopicCommand::Truncate(arguments) => truncate(arguments).await,
        TopicCommand::Config(arguments) => config(arguments).await,
    }
}

/// Pairs of the command line, each `KEY=VALUE`.
pub(crate) fn pairs(texts: &[String]) -> Result<HashMap<String, String>, CliError> {
    let pair = |text: &String| {
        let split = text.split_once('=').map(|(key, value)| (key.to_owned(), value.to_owned()));
        split.ok_or_else(|| CliError::usage(format!("\"{text}\" is not KEY=VALUE")))
    };
    let mut pairs = HashMap::new();
    for (key, value) in texts.iter().map(pair).collect::<Result<Vec<_>, _>>()? {
        if pairs.insert(key.clone(), value).is_some() {
            return Err(CliError::usage(format!("\"{key}\" is given twice")));
        }
    }
    Ok(pairs)
}

async fn create(arguments: TopicCreateArgs) -> Done {
    let server = Server::of(&arguments.output.server)?;
    let config = pairs(&arguments.config)?;
    let create = |name: String| {
        let mut client = server.client.topics();
        let topic = pb::Topic {
            name: name.clone(),
            partition_count: arguments.partitions.unwrap_or(0),
            replication_factor: arguments.replicas.unwrap_or(0),
            config: config.clone(),
            ..Default::default()
        };
        let request = pb::CreateTopicRequest {
            topic: Some(topic),
            allow_existing: arguments.if_not_exists,
            validate_only: arguments.dry_run,
            ..Default::default()
        };
        let server = &server;
        async move {
            let known = request.allow_existing && client.get_topic(pb::GetTopicRequest { name }).await.is_ok();
            let status = match (known, request.validate_only) {
                (true, _) => "exists",
                (false, true) => "would be created",
                (false, false) => "created",
            };
            let created = server.answered(client.create_topic(request).await)?;
            Ok(Some((created.topic.unwrap_or_default(), status)))
        }
    };
    show_changed(arguments.output.output, each(arguments.names, create).await)
}

async fn list(arguments: TopicListArgs) -> Done {
    let server = Server::of(&arguments.output.server)?;
    let stats = arguments.output.output != Form::Name;
    // A topic of Walser itself that is named is meant.
    let internal = arguments.internal || arguments.names.iter().any(|name| name.starts_with(RESERVED_PREFIX));
    let mut all = topics::list(&server, stats, internal).await?;
    let known = all.iter().map(|topic| topic.name.clone()).collect();
    let selected = Named::Topic.select(&arguments.names, known)?;
    all.retain(|topic| selected.has(&topic.name));
    if selected.can_be_shown() {
        show_list(arguments.output.output, &all)?;
    }
    selected.all_there().map(|()| ExitCode::SUCCESS)
}

async fn alter(arguments: TopicAlterArgs) -> Done {
    if arguments.config.is_empty() && arguments.unset.is_empty() {
        let error = CliError::usage("nothing to change: neither --config nor --unset is given");
        let name = arguments.names.first().map_or("TOPIC", String::as_str);
        return Err(error.with_help(format!(
            "for example `walser topic alter {name} --config retention.ms=7d`; `walser topic config` shows every setting"
        )));
    }
    let server = Server::of(&arguments.output.server)?;
    let config = pairs(&arguments.config)?;
    let status = if arguments.dry_run { "would be changed" } else { "changed" };
    let alter = |name: String| {
        let named = arguments.names.contains(&name);
        let request = pb::UpdateTopicRequest {
            name,
            config_updates: config.clone(),
            config_resets: arguments.unset.clone(),
            validate_only: arguments.dry_run,
            ..Default::default()
        };
        let server = &server;
        async move {
            let altered = server.answered_of(named, server.client.topics().update_topic(request).await)?;
            Ok(altered.map(|altered| (altered.topic.unwrap_or_default(), status)))
        }
    };
    let names = topics::matching(&server, &arguments.names).await?;
    show_changed(arguments.output.output, each(names, alter).await)
}

async fn add_partitions(arguments: TopicAddPartitionsArgs) -> Done {
    let server = Server::of(&arguments.output.server)?;
    let request = pb::AddPartitionsRequest {
        topic: arguments.name,
        partition_count: arguments.partitions,
        validate_only: arguments.dry_run,
    };
    let answer = server.client.topics().add_partitions(request).await;
    let topic = server.answered(answer)?.topic.unwrap_or_default();
    let status = if arguments.dry_run { "would be changed" } else { "changed" };
    show_changed(arguments.output.output, Dealt::one((topic, status)))
}

async fn truncate(arguments: TopicTruncateArgs) -> Done {
    if !arguments.dry_run {
        confirm("topic", &[&arguments.name], arguments.yes, "Records before the position are deleted for ever.")
            .await?;
    }
    let server = Server::of(&arguments.output.server)?;
    let request = pb::TruncateTopicRequest {
        topic: arguments.name.clone(),
        partitions: arguments.partition,
        before: Some(arguments.before.wire()),
        validate_only: arguments.dry_run,
    };
    let answer = server.answered(server.client.topics().truncate_topic(request).await)?;
    match arguments.output.output {
        Form::Json => output::document(&message::json(&answer)?)?,
        Form::Ndjson => lines(&answer.log_start_offsets)?,
        Form::Name => output::data(&arguments.name),
        Form::Table => {
            let row = |start: &pb::RecordPosition| vec![start.partition.to_string(), count(start.offset)];
            let rows: Vec<_> = answer.log_start_offsets.iter().map(row).collect();
            output::data(&table(&["PARTITION", "FIRST"], &rows));
        }
    }
    if arguments.dry_run {
        output::note("Nothing was deleted.");
    }
    Ok(ExitCode::SUCCESS)
}

async fn config(arguments: TopicConfigArgs) -> Done {
    let server = Server::of(&arguments.output.server)?;
    let request = pb::ListTopicConfigsRequest { topic: arguments.name.unwrap_or_default(), ..Default::default() };
    let answer = server.answered(server.client.topics().list_topic_configs(request).await)?;
    show_configs(arguments.output.output, &answer.configs)?;
    Ok(ExitCode::SUCCESS)
}

async fn delete(arguments: TopicDeleteArgs) -> Done {
    let server = Server::of(&arguments.server)?;
    let names = topics::matching(&server, &arguments.names).await?;
    let described = |name: String| {
        let (server, named) = (&server, arguments.names.contains(&name));
        async move {
            let found = server.client.topics().get_topic(pb::GetTopicRequest { name: name.clone() }).await;
            let Some(found) = server.answered_of(named, found)? else { return Ok(None) };
            let stats = found.topic.unwrap_or_default().stats.unwrap_or_default();
            Ok(Some(format!("Topic \"{name}\" has {} ({}).", show::records(&stats), size(&stats))))
        }
    };
    let what = each(names.clone(), described).await.all()?.join("\n");
    confirm("topic", &names.iter().map(String::as_str).collect::<Vec<_>>(), arguments.yes, &what).await?;
    let delete = |name: String| {
        let (server, named) = (&server, arguments.names.contains(&name));
        async move {
            let request = pb::DeleteTopicRequest { name: name.clone(), etag: String::new() };
            let deleted = server.answered_of(named, server.client.topics().delete_topic(request).await)?;
            if let Some(deleted) = deleted {
                output::data(&format!("deleted {name}  [{}]", deleted.operation.unwrap_or_default().id));
            }
            Ok(Some(()))
        }
    };
    if let Some(error) = each(names, delete).await.error() {
        return Err(error);
    }
    Ok(ExitCode::SUCCESS)
}
