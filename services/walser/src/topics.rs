//! The topics of a server.

use walser_proto::v1 as pb;

use crate::error::CliError;
use crate::names::{Named, is_pattern};
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
    Named::Topic.expand(names, &known)
}
