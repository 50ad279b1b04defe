//! Completion from the live server: topics, settings and contexts. A server that does not answer at once completes
//! nothing, and says nothing.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::time::Duration;

use clap_complete::CompletionCandidate;
use walser_model::RESERVED_PREFIX;
use walser_proto::v1 as pb;

use crate::args::ServerArgs;
use crate::candidates::candidates;
use crate::server::Server;
use crate::tls_args::TlsArgs;

/// The time that people wait for TAB.
const PATIENCE: Duration = Duration::from_millis(300);
/// Most names that are offered.
const NAMES_MAX: usize = 10_000;
/// Topics asked for at once.
const PAGE: i32 = 1000;

/// Names of topics.
pub(crate) fn topics(word: &OsStr) -> Vec<CompletionCandidate> {
    names(word, async |server, beginning, page_token| {
        let request = pb::ListTopicsRequest {
            page_size: PAGE,
            page_token,
            name_contains: beginning.to_owned(),
            // Only those who begin such a name want one.
            include_internal: beginning.starts_with(RESERVED_PREFIX),
            ..Default::default()
        };
        let page = server.client.topics().list_topics(request).await.ok()?.into_inner();
        Some((page.topics.into_iter().map(|topic| topic.name).collect(), page.next_page_token))
    })
}

/// Names of groups.
pub(crate) fn groups(word: &OsStr) -> Vec<CompletionCandidate> {
    names(word, async |server, beginning, page_token| {
        let name_contains = beginning.to_owned();
        let request = pb::ListGroupsRequest { page_size: PAGE, page_token, name_contains, ..Default::default() };
        let page = server.client.groups().list_groups(request).await.ok()?.into_inner();
        Some((page.groups.into_iter().map(|group| group.name).collect(), page.next_page_token))
    })
}

/// Names that begin as the word does, from pages of names that have its text anywhere. `page`: the names behind a page token,
/// and the next one.
fn names(
    word: &OsStr,
    page: impl AsyncFn(&Server, &str, String) -> Option<(Vec<String>, String)>,
) -> Vec<CompletionCandidate> {
    let beginning = word.to_string_lossy().into_owned();
    let list = |server: Server| async move {
        let (mut names, mut page_token) = (Vec::new(), String::new());
        while names.len() < NAMES_MAX {
            let (found, next) = page(&server, &beginning, page_token).await?;
            names.extend(found.into_iter().filter(|name| name.starts_with(&beginning)).map(|name| (name, None)));
            page_token = next;
            if page_token.is_empty() {
                break;
            }
        }
        Some(names)
    };
    candidates(word, asked(list))
}

/// `KEY=` of every setting of a topic, with what it is for.
pub(crate) fn settings(word: &OsStr) -> Vec<CompletionCandidate> {
    let list = |(name, help): (String, Option<String>)| (format!("{name}="), help);
    candidates(word, configs().into_iter().map(list).collect())
}

/// The names of settings.
pub(crate) fn setting_names(word: &OsStr) -> Vec<CompletionCandidate> {
    candidates(word, configs())
}

/// What a record can be.
pub(crate) fn framings(word: &OsStr) -> Vec<CompletionCandidate> {
    candidates(word, ["lines", "whole", "json", "blocks:"].map(|name| (name.to_owned(), None)).into())
}

fn configs() -> Vec<(String, Option<String>)> {
    asked(|server| async move {
        let answer = server.client.topics().list_topic_configs(pb::ListTopicConfigsRequest::default()).await.ok()?;
        let configs = answer.into_inner().configs.into_iter();
        Some(configs.map(|entry| (entry.name, Some(entry.documentation))).collect())
    })
}

/// What the server says, within the time that there is.
fn asked<F, A>(ask: F) -> Vec<(String, Option<String>)>
where
    F: FnOnce(Server) -> A,
    A: Future<Output = Option<Vec<(String, Option<String>)>>>,
{
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let Ok(runtime) = runtime else { return Vec::new() };
    let asking = async {
        let server = Server::of(&typed_server()).ok()?;
        tokio::time::timeout(PATIENCE, ask(server)).await.ok().flatten()
    };
    runtime.block_on(asking).unwrap_or_default()
}

/// The server that the line so far names.
fn typed_server() -> ServerArgs {
    let words: Vec<String> = std::env::args_os().map(|word| word.to_string_lossy().into_owned()).collect();
    let after = |names: &[&str]| {
        let separate = words.windows(2).find(|pair| names.contains(&pair[0].as_str())).map(|pair| pair[1].clone());
        let joined = |word: &String| {
            let value = |name: &&str| word.strip_prefix(name)?.strip_prefix('=').map(str::to_owned);
            names.iter().find_map(value)
        };
        separate.or_else(|| words.iter().find_map(joined))
    };
    let file = |name: &str| after(&[name]).map(PathBuf::from);
    let tls = TlsArgs {
        tls: words.iter().any(|word| word == "--tls"),
        tls_ca: file("--tls-ca"),
        tls_cert: file("--tls-cert"),
        tls_key: file("--tls-key"),
        tls_server_name: after(&["--tls-server-name"]),
    };
    ServerArgs { server: after(&["--server", "-s"]), context: after(&["--context"]), tls }
}
