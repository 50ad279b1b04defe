//! What the server says of groups.

use walser_proto::v1 as pb;

use crate::error::CliError;
use crate::names::{Named, is_pattern};
use crate::server::Server;

/// Groups asked for at once.
const PAGE: i32 = 1000;
/// Partitions of a group asked for at once.
const OFFSETS_PAGE: i32 = 10_000;

/// Groups by name; with `states` only those in one of them.
pub(super) async fn list(server: &Server, states: &[pb::GroupState]) -> Result<Vec<pb::Group>, CliError> {
    let (mut groups, mut page_token) = (Vec::new(), String::new());
    let states: Vec<i32> = states.iter().map(|state| (*state).into()).collect();
    loop {
        let request =
            pb::ListGroupsRequest { page_size: PAGE, page_token, states: states.clone(), ..Default::default() };
        let page = server.answered(server.client.groups().list_groups(request).await)?;
        groups.extend(page.groups);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return Ok(groups);
        }
    }
}

/// The names that are meant: as they are, and for every pattern those of the groups that fit. Each once, in order.
///
/// # Errors
/// A pattern that is none, or that no group fits.
pub(super) async fn matching(server: &Server, names: &[String]) -> Result<Vec<String>, CliError> {
    let known = if names.iter().any(|name| is_pattern(name)) {
        list(server, &[]).await?.into_iter().map(|group| group.name).collect()
    } else {
        Vec::new()
    };
    Named::Group.expand(names, &known)
}

/// A group with members and lag.
pub(super) async fn get(server: &Server, name: &str) -> Result<pb::Group, CliError> {
    let request = pb::GetGroupRequest { name: name.to_owned() };
    Ok(server.answered(server.client.groups().get_group(request).await)?.group.unwrap_or_default())
}

/// The partitions of a group, by topic name and number.
pub(super) async fn offsets(server: &Server, group: &str) -> Result<Vec<pb::GroupOffset>, CliError> {
    let (mut offsets, mut page_token) = (Vec::new(), String::new());
    loop {
        let request = pb::ListGroupOffsetsRequest {
            group: group.to_owned(),
            page_size: OFFSETS_PAGE,
            page_token,
            ..Default::default()
        };
        let page = server.answered(server.client.groups().list_group_offsets(request).await)?;
        offsets.extend(page.offsets);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return Ok(offsets);
        }
    }
}
