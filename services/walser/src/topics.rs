//! Names of topics as people write them: with `*` and `?` for parts of names.

use std::collections::HashSet;

use globset::Glob;
use walser_proto::v1 as pb;

use crate::error::{CliError, did_you_mean};
use crate::server::Server;

/// Topics asked for at once.
const PAGE: i32 = 1000;

/// All topics; with `include_internal` also those of Walser itself.
pub(crate) async fn list(
    server: &Server,
    include_stats: bool,
    include_internal: bool,
) -> Result<Vec<pb::Topic>, CliError> {
    let mut topics = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = pb::ListTopicsRequest {
            page_size: PAGE,
            page_token,
            include_stats,
            include_internal,
            ..Default::default()
        };
        let page = server.answered(server.client.topics().list_topics(request).await)?;
        topics.extend(page.topics);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return Ok(topics);
        }
    }
}

/// Whether a name is a pattern.
fn is_pattern(name: &str) -> bool {
    name.contains(['*', '?', '[', '{'])
}

/// The names that are meant: as they are, and for every pattern those of the topics that fit. Each once, in order.
///
/// # Errors
/// A pattern that is none, or that no topic fits.
pub(crate) async fn matching(server: &Server, names: &[String]) -> Result<Vec<String>, CliError> {
    let known = if names.iter().any(|name| is_pattern(name)) {
        list(server, false, false).await?.into_iter().map(|topic| topic.name).collect()
    } else {
        Vec::new()
    };
    expand(names, &known)
}

fn expand(names: &[String], known: &[String]) -> Result<Vec<String>, CliError> {
    let mut meant: Vec<String> = Vec::new();
    let mut seen = HashSet::new();
    for name in names {
        let found = if is_pattern(name) { fitting(name, known)? } else { vec![name.clone()] };
        if found.is_empty() {
            let error = CliError::not_found(format!("no topic fits the pattern \"{name}\""));
            return Err(error.with_help("`walser topic list` shows the topics there are."));
        }
        meant.extend(found.into_iter().filter(|name| seen.insert(name.clone())));
    }
    Ok(meant)
}

/// Those of the names that are meant. A pattern may fit none.
///
/// # Errors
/// A name that is not there.
pub(crate) fn known(wanted: &[String], names: &[String]) -> Result<Vec<String>, CliError> {
    let mut found = Vec::new();
    for name in wanted {
        let fits = fitting(name, names)?;
        if fits.is_empty() && !is_pattern(name) {
            let meant = did_you_mean(name, names.iter().map(String::as_str));
            let error = CliError::not_found(format!("topic \"{name}\" does not exist{meant} (TOPIC_NOT_FOUND)"));
            return Err(error.with_help("`walser topic list` shows the topics there are."));
        }
        found.extend(fits);
    }
    Ok(found)
}

/// Those of the names that fit a pattern.
fn fitting(pattern: &str, names: &[String]) -> Result<Vec<String>, CliError> {
    let bad = |error: globset::Error| CliError::usage(format!("\"{pattern}\" is not a pattern: {}", error.kind()));
    let glob = Glob::new(pattern).map_err(bad)?.compile_matcher();
    Ok(names.iter().filter(|name| glob.is_match(name)).cloned().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_mean_the_topics_that_fit() {
        let texts = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let known = texts(&["logs-a", "logs-b", "orders", "logs.c"]);
        let meant = |names: &[&str]| expand(&texts(names), &known);
        assert_eq!(meant(&["logs-*", "orders"]).unwrap(), ["logs-a", "logs-b", "orders"]);
        assert_eq!(meant(&["orders", "*", "orders"]).unwrap().len(), 4, "each once");
        assert_eq!(meant(&["logs?{b,c}"]).unwrap(), ["logs-b", "logs.c"]);
        assert_eq!(meant(&["missing"]).unwrap(), ["missing"], "what is no pattern is asked for");
        assert!(meant(&["x*"]).is_err() && meant(&["logs-["]).is_err());
    }
}
