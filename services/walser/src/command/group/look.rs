//! What the server says of groups.

use walser_client::{ApiError, Reason};
use walser_proto::v1 as pb;

use crate::error::CliError;
use crate::names::{Named, filter, is_pattern};
use crate::server::Server;

/// Groups asked for at once.
const PAGE: i32 = 1000;
/// Length of the id of a member, which is a UUID.
const MEMBER_ID_LEN: usize = 36;
/// Partitions of a group asked for at once.
const OFFSETS_PAGE: i32 = 10_000;

/// Groups by name; with `states` only those in one of them.
pub(in crate::command) async fn list(server: &Server, states: &[pb::GroupState]) -> Result<Vec<pb::Group>, CliError> {
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
    Named::Group.expand(names, &fitted_names(server, names).await?)
}

/// The names of groups that are to be shown: as they are, and for every pattern those of the groups that fit, if any do.
///
/// # Errors
/// A pattern that is none.
pub(super) async fn selected(server: &Server, names: &[String]) -> Result<Vec<String>, CliError> {
    filter(names, &fitted_names(server, names).await?)
}

/// The names that patterns have to fit; without a pattern none are asked for.
async fn fitted_names(server: &Server, names: &[String]) -> Result<Vec<String>, CliError> {
    let any = names.iter().any(|name| is_pattern(name));
    let groups = if any { list(server, &[]).await? } else { Vec::new() };
    Ok(groups.into_iter().map(|group| group.name).collect())
}

/// A group with members and lag.
pub(in crate::command) async fn get(server: &Server, name: &str) -> Result<pb::Group, CliError> {
    let request = pb::GetGroupRequest { name: name.to_owned() };
    Ok(server.answered(server.client.groups().get_group(request).await)?.group.unwrap_or_default())
}

/// The same; `None`: there is no such group.
pub(super) async fn find(server: &Server, name: &str) -> Result<Option<pb::Group>, CliError> {
    let request = pb::GetGroupRequest { name: name.to_owned() };
    match server.client.groups().get_group(request).await.map_err(ApiError::from) {
        Ok(answer) => Ok(Some(answer.into_inner().group.unwrap_or_default())),
        Err(failure) if failure.reason() == Reason::GroupNotFound => Ok(None),
        Err(failure) => Err(server.failed(failure)),
    }
}

/// The id of a member, of which the beginning may be given, as tables show it.
///
/// # Errors
/// More than one begins so.
pub(super) async fn member(server: &Server, group: &str, given: String) -> Result<String, CliError> {
    let begin = given.trim_end_matches('\u{2026}');
    if begin.is_empty() {
        let error = CliError::usage("the id of the member is empty: every id begins so");
        return Err(error.with_help(format!("`walser group describe {group}` lists its members.")));
    }
    // A whole id needs no look at the group.
    if begin.len() >= MEMBER_ID_LEN {
        return Ok(given);
    }
    let known = find(server, group).await?.unwrap_or_default().members;
    let mut fitting = known.into_iter().map(|member| member.member_id).filter(|id| id.starts_with(begin));
    match (fitting.next(), fitting.next()) {
        (Some(id), None) => Ok(id),
        (Some(_), Some(_)) => {
            let error =
                CliError::usage(format!("the ids of several members of group \"{group}\" begin with \"{begin}\""));
            Err(error.with_help(format!("`walser group describe {group} -o json` shows whole ids.")))
        }
        // The server says what is missing.
        (None, _) => Ok(given),
    }
}

/// The partitions of a group, by topic name and number.
pub(in crate::command) async fn offsets(server: &Server, group: &str) -> Result<Vec<pb::GroupOffset>, CliError> {
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
