//! `walser group`.

pub(super) mod look;
pub(super) mod show;

use std::process::ExitCode;

use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use walser_client::{ApiError, Reason};
use walser_proto::v1 as pb;
use walser_proto::v1::reset_group_offsets_request::To;

use self::show::{show_description, show_lags, show_list, show_plan};
use super::confirm::confirm;
use super::screen::shown;
use crate::cli::{
    GroupCommand, GroupDeleteArgs, GroupDeleteOffsetsArgs, GroupDescribeArgs, GroupLagArgs, GroupListArgs,
    GroupRemoveMemberArgs, GroupResetArgs, GroupStateName, PlacedOffset,
};
use crate::error::{CliError, NOT_FOUND};
use crate::names::Named;
use crate::output;
use crate::server::Server;

type Done = Result<ExitCode, CliError>;

/// Groups that are measured at once.
const CONCURRENT_MAX: usize = 8;

pub(crate) async fn run(command: GroupCommand) -> Done {
    match command {
        GroupCommand::List(arguments) => list(&arguments).await?,
        GroupCommand::Describe(arguments) => describe(&arguments).await?,
        GroupCommand::Lag(arguments) => lag(&arguments).await?,
        GroupCommand::Reset(arguments) => reset(arguments).await?,
        GroupCommand::Delete(arguments) => delete(&arguments).await?,
        GroupCommand::DeleteOffsets(arguments) => delete_offsets(arguments).await?,
        GroupCommand::RemoveMember(arguments) => remove_member(arguments).await?,
    }
    Ok(ExitCode::SUCCESS)
}

async fn list(arguments: &GroupListArgs) -> Result<(), CliError> {
    let server = Server::of(&arguments.output.server)?;
    let states: Vec<_> = arguments.state.iter().map(|name| wire_state(*name)).collect();
    let mut all = look::list(&server, &states).await?;
    let known = all.iter().map(|group| group.name.clone()).collect();
    let selected = Named::Group.select(&arguments.names, known)?;
    all.retain(|group| selected.has(&group.name));
    if selected.can_be_shown() {
        show_list(arguments.output.output, &all)?;
    }
    selected.all_there()
}

async fn describe(arguments: &GroupDescribeArgs) -> Result<(), CliError> {
    let server = Server::of(&arguments.output.server)?;
    let (form, group) = (arguments.output.output, &arguments.group);
    let look = async || Ok((look::get(&server, group).await?, look::offsets(&server, group).await?));
    shown(arguments.watch.watch, form, look, |(group, offsets)| show_description(form, group, offsets)).await
}

async fn lag(arguments: &GroupLagArgs) -> Result<(), CliError> {
    let server = Server::of(&arguments.output.server)?;
    let (form, all) = (arguments.output.output, arguments.names.is_empty());
    let measure = async |name: String| {
        let Some(group) = look::find(&server, &name).await? else { return Ok(Err(name)) };
        let offsets = if all { Vec::new() } else { look::offsets(&server, &name).await? };
        Ok::<_, CliError>(Ok((pb::Group { members: Vec::new(), ..group }, offsets)))
    };
    let look = async || {
        let names = match all {
            true => look::list(&server, &[]).await?.into_iter().map(|group| group.name).collect(),
            false => look::selected(&server, &arguments.names).await?,
        };
        let measured: Vec<_> = names.into_iter().map(&measure).collect();
        stream::iter(measured).buffered(CONCURRENT_MAX).try_collect::<Vec<_>>().await
    };
    let show = |measured: &Vec<Result<_, String>>| {
        let lags: Vec<_> = measured.iter().flatten().collect();
        // One of all that is gone meanwhile was not asked for.
        let missing: Vec<_> = measured.iter().filter_map(|it| it.as_ref().err()).filter(|_| !all).cloned().collect();
        if missing.is_empty() || !lags.is_empty() {
            show_lags(form, &lags)?;
        }
        match Named::Group.all_there(&missing, []) {
            // It may come.
            Err(missing) if arguments.watch.watch.is_some() => {
                missing.show();
                Ok(())
            }
            complete => complete,
        }
    };
    shown(arguments.watch.watch, form, look, show).await
}

async fn reset(arguments: GroupResetArgs) -> Result<(), CliError> {
    let server = Server::of(&arguments.output.server)?;
    let GroupResetArgs { group, topics, partitions, to, shift, from_group, offset, force, dry_run, output } = arguments;
    let to = match (to, shift, from_group) {
        (Some(position), _, _) => To::Position(position.wire()),
        (_, Some(by), _) => To::Shift(by),
        (_, _, Some(other)) => To::FromGroup(other),
        _ => To::Offsets(pb::OffsetList { offsets: offset.into_iter().map(wire_offset).collect() }),
    };
    let request =
        pb::ResetGroupOffsetsRequest { group, topics, partitions, to: Some(to), force, validate_only: dry_run };
    let plan = server.answered(server.client.groups().reset_group_offsets(request).await)?;
    show_plan(output.output, &plan, dry_run)
}

fn wire_state(name: GroupStateName) -> pb::GroupState {
    match name {
        GroupStateName::Empty => pb::GroupState::Empty,
        GroupStateName::Assigning => pb::GroupState::Assigning,
        GroupStateName::Reconciling => pb::GroupState::Reconciling,
        GroupStateName::Stable => pb::GroupState::Stable,
    }
}

fn wire_offset(placed: PlacedOffset) -> pb::OffsetCommit {
    let PlacedOffset { topic, partition, offset } = placed;
    let topic_partition = Some(pb::TopicPartition { topic, partition });
    pb::OffsetCommit { topic_partition, offset, ..pb::OffsetCommit::default() }
}

async fn delete(arguments: &GroupDeleteArgs) -> Result<(), CliError> {
    let server = Server::of(&arguments.server)?;
    let names = look::matching(&server, &arguments.names).await?;
    let mut what = Vec::new();
    for name in &names {
        let offsets = look::offsets(&server, name).await?;
        let committed = offsets.iter().filter(|offset| offset.committed_offset.is_some()).count();
        let committed = output::plural(i64::try_from(committed).unwrap_or(i64::MAX), "partition");
        what.push(format!("Group \"{name}\" has committed offsets of {committed}."));
    }
    confirm("group", &names.iter().map(String::as_str).collect::<Vec<_>>(), arguments.yes, &what.join("\n")).await?;
    for name in names {
        let request = pb::DeleteGroupRequest { name: name.clone() };
        server.answered(server.client.groups().delete_group(request).await)?;
        output::data(&format!("deleted {name}"));
    }
    Ok(())
}

async fn delete_offsets(arguments: GroupDeleteOffsetsArgs) -> Result<(), CliError> {
    let server = Server::of(&arguments.server)?;
    let GroupDeleteOffsetsArgs { group, topics, yes, .. } = arguments;
    let text = format!("The group forgets what it has committed of {}.", topics.join(", "));
    confirm("group", &[&group], yes, &text).await?;
    let request = pb::DeleteGroupOffsetsRequest { group: group.clone(), topics: topics.clone() };
    server.answered(server.client.groups().delete_group_offsets(request).await)?;
    topics.iter().for_each(|topic| output::data(&format!("deleted the offsets of {group} in {topic}")));
    Ok(())
}

async fn remove_member(arguments: GroupRemoveMemberArgs) -> Result<(), CliError> {
    let server = Server::of(&arguments.server)?;
    let GroupRemoveMemberArgs { group, member, instance, .. } = arguments;
    let (member_id, instance_id) = match member {
        Some(member) => (look::member(&server, &group, member).await?, String::new()),
        None => (String::new(), instance.unwrap_or_default()),
    };
    let named = if member_id.is_empty() { instance_id.clone() } else { member_id.clone() };
    let request = pb::RemoveGroupMemberRequest { group: group.clone(), member_id, instance_id };
    if let Err(status) = server.client.groups().remove_group_member(request).await {
        let failure = ApiError::from(status);
        let unknown = failure.reason() == Reason::SessionExpired;
        let error = server.failed(failure);
        let help = format!("`walser group describe {group}` shows the members that it has.");
        return Err(if unknown { error.with_code(NOT_FOUND).with_help(help) } else { error });
    }
    output::data(&format!("removed {named} from {group}"));
    output::note("If its client still runs it joins again: stop it first to keep it out.");
    Ok(())
}
