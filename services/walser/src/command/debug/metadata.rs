//! What a gateway says of its cluster, as the commands print it with `-o json`.

use std::time::Duration;

use futures::stream::{self, StreamExt as _};
use serde_json::{Value, json};
use tokio::time::timeout;

use super::archive::Archive;
use crate::command::doctor;
use crate::command::group::{look, show};
use crate::command::{partition, status};
use crate::error::CliError;
use crate::message;
use crate::server::Server;
use crate::topics;

/// How long one part may take.
const PART_MAX: Duration = Duration::from_secs(60);
/// Topics and groups that are asked about at once.
const CONCURRENT_MAX: usize = 8;
/// Topics whose partitions are listed, and groups that are described. Of further ones the lists say what there is to say.
const TOPICS_MAX: usize = 10_000;
const GROUPS_MAX: usize = 1000;

/// Adds all of it, as far as it can be had.
///
/// # Errors
/// When the archive cannot be written.
pub(super) async fn add(server: &Server, archive: &mut Archive) -> Result<(), CliError> {
    let report = doctor::examine(server).await;
    archive.add("doctor.json", serde_json::to_string_pretty(&report)?.as_bytes())?;
    if report.is_unreachable() {
        archive.lacks("metadata of the cluster", format!("{} cannot be reached; doctor.json says why", server.address));
        return Ok(());
    }
    part(archive, "cluster/status.json", async { status::document(&status::look(server).await?) }).await?;
    let settings = async { Ok(json!({ "configs": message::list(&server.cluster_configs().await?)? })) };
    part(archive, "cluster/config.json", settings).await?;
    let listed = timeout(PART_MAX, topics::list(server, true, true)).await.unwrap_or_else(|_| Err(late()));
    let names = match &listed {
        Ok(topics) => topics.iter().map(|topic| topic.name.clone()).collect(),
        Err(_) => Vec::new(),
    };
    part(archive, "cluster/topics.json", async { Ok(json!({ "topics": message::list(&listed?)? })) }).await?;
    let partitions = |name: String| async move {
        let found = partition::partitions(server, &name, false).await?;
        found.iter().map(partition::document).collect::<Result<Vec<_>, _>>()
    };
    lines(archive, "cluster/partitions.ndjson", (names, TOPICS_MAX), partitions).await?;
    let listed = timeout(PART_MAX, look::list(server, &[])).await.unwrap_or_else(|_| Err(late()));
    let names = match &listed {
        Ok(groups) => groups.iter().map(|group| group.name.clone()).collect(),
        Err(_) => Vec::new(),
    };
    part(archive, "cluster/groups.json", async { Ok(json!({ "groups": message::list(&listed?)? })) }).await?;
    let described = |name: String| async move {
        let (group, offsets) = tokio::try_join!(look::get(server, &name), look::offsets(server, &name))?;
        Ok(vec![show::with_offsets(&group, &offsets)?])
    };
    lines(archive, "cluster/groups.ndjson", (names, GROUPS_MAX), described).await
}

fn late() -> CliError {
    CliError::failed(format!("no answer within {} s", PART_MAX.as_secs()))
}

/// Adds one document.
async fn part(
    archive: &mut Archive,
    name: &str,
    document: impl Future<Output = Result<Value, CliError>>,
) -> Result<(), CliError> {
    match timeout(PART_MAX, document).await.unwrap_or_else(|_| Err(late())) {
        Ok(document) => archive.add(name, serde_json::to_string_pretty(&document)?.as_bytes()),
        Err(error) => {
            archive.lacks(name, error.what());
            Ok(())
        }
    }
}

/// Adds a line for each thing that the named ones have, of at most so many of them, as far as the time goes.
async fn lines<L>(
    archive: &mut Archive,
    name: &str,
    (mut names, most): (Vec<String>, usize),
    look: impl Fn(String) -> L,
) -> Result<(), CliError>
where
    L: Future<Output = Result<Vec<Value>, CliError>>,
{
    if names.len() > most {
        archive.lacks(name, format!("only the first {most} of {} are in it", names.len()));
        names.truncate(most);
    }
    let (mut text, mut failed, count) = (String::new(), None, names.len());
    let looks: Vec<_> = names.into_iter().map(look).collect();
    let mut looked = stream::iter(looks).buffered(CONCURRENT_MAX);
    let (mut done, deadline) = (0, tokio::time::Instant::now() + PART_MAX);
    while let Ok(Some(found)) = tokio::time::timeout_at(deadline, looked.next()).await {
        done += 1;
        match found {
            Ok(found) => found.iter().for_each(|value| text.push_str(&format!("{value}\n"))),
            Err(error) => failed = Some(error.what().to_owned()),
        }
    }
    if done < count {
        archive.lacks(name, format!("{done} of {count} were asked for within {} s", PART_MAX.as_secs()));
    }
    if let Some(failed) = failed {
        archive.lacks(name, format!("at least one of {count} could not be had: {failed}"));
    }
    archive.add(name, text.as_bytes())
}
