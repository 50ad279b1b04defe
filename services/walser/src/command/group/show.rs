//! Groups as they are shown.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use walser_proto::v1 as pb;

use crate::args::Form;
use crate::command::produce::now_ms;
use crate::command::topic::{known, lines};
use crate::error::CliError;
use crate::message;
use crate::output::{self, count, plural, table, table_in_forms};
use crate::records::time::{duration, since};

/// Stands for what is not known.
const UNKNOWN: &str = "?";
/// Stands for what there is none of.
const NONE: &str = "-";

/// Least characters of the id of a member that is shown in short.
const SHORT_ID_MIN: usize = 8;

type Shown = Result<(), CliError>;

/// Ids of members as tables show them: whole, or so much of each as tells them apart.
struct MemberIds {
    short: Option<usize>,
}

fn state(group: &pb::Group) -> String {
    format!("{:?}", group.state()).to_lowercase()
}

/// A time lag: `0s`, `3m 12s`.
fn time_lag(lag: Option<pbjson_types::Duration>) -> String {
    lag.map_or_else(|| UNKNOWN.to_owned(), |lag| duration(lag.seconds.saturating_mul(1000)))
}

fn text(text: &str) -> String {
    if text.is_empty() { NONE.to_owned() } else { text.to_owned() }
}

fn offset_or_none(offset: Option<i64>) -> String {
    offset.map_or_else(|| NONE.to_owned(), count)
}

/// All groups that were found.
pub(super) fn show_list(form: Form, groups: &[pb::Group]) -> Shown {
    match form {
        Form::Name => groups.iter().for_each(|group| output::data(&group.name)),
        Form::Json => output::document(&json!({ "groups": message::list(groups)? }))?,
        Form::Ndjson => lines(groups)?,
        Form::Table => {
            let row = |group: &pb::Group| {
                vec![
                    group.name.clone(),
                    state(group),
                    group.member_count.to_string(),
                    text(&group.assignor),
                    group.create_time.map_or_else(|| NONE.to_owned(), |created| since(created, now_ms())),
                    text(&group.coordinator),
                ]
            };
            let rows: Vec<_> = groups.iter().map(row).collect();
            output::data(&table(&["GROUP", "STATE", "MEMBERS", "ASSIGNOR", "AGE", "COORDINATOR"], &rows));
        }
    }
    Ok(())
}

/// A group with its members and partitions.
pub(super) fn show_description(form: Form, group: &pb::Group, offsets: &[pb::GroupOffset]) -> Shown {
    match form {
        Form::Name => output::data(&group.name),
        Form::Json => output::document(&with_offsets(group, offsets)?)?,
        Form::Ndjson => output::data(&with_offsets(group, offsets)?.to_string()),
        Form::Table => {
            output::data(&headline(group));
            if !group.members.is_empty() {
                output::data("");
                show_members(group);
            }
            if !offsets.is_empty() {
                output::data("");
                show_offsets(offsets);
            }
        }
    }
    Ok(())
}

/// A group as one JSON document, its partitions in `offsets`.
pub(in crate::command) fn with_offsets(group: &pb::Group, offsets: &[pb::GroupOffset]) -> Result<Value, CliError> {
    let mut value = message::json(group)?;
    value["offsets"] = message::list(offsets)?;
    Ok(value)
}

fn headline(group: &pb::Group) -> String {
    let mut parts = vec![state(group)];
    if group.r#type() == pb::GroupType::Simple {
        parts.push("offsets only".to_owned());
    } else {
        parts.push(plural(i64::from(group.member_count), "member"));
        parts.push(group.assignor.clone());
    }
    parts.push(match group.total_lag {
        Some(lag) => format!("lag {} / {}", plural(lag, "record"), time_lag(group.time_lag)),
        None => "lag not known".to_owned(),
    });
    if !group.coordinator.is_empty() {
        parts.push(format!("coordinator {}", group.coordinator));
    }
    output::heading(&group.name, &parts)
}

fn show_members(group: &pb::Group) {
    let any_static = group.members.iter().any(|member| !member.instance_id.is_empty());
    let row = |ids: &MemberIds, member: &pb::GroupMember| {
        let mut row = vec![ids.shown(&member.member_id)];
        row.extend(any_static.then(|| text(&member.instance_id)));
        row.extend([text(&member.client_id), text(&member.client_address)]);
        row.extend([partitions(&member.assigned), known(member.lag, count)]);
        row
    };
    let mut titles = vec!["MEMBER"];
    titles.extend(any_static.then_some("INSTANCE"));
    titles.extend(["CLIENT", "ADDRESS", "PARTITIONS", "LAG"]);
    let short = MemberIds::short(group.members.iter().map(|member| member.member_id.as_str()));
    let rows = |ids: &MemberIds| group.members.iter().map(|member| row(ids, member)).collect::<Vec<_>>();
    output::data(&table_in_forms(&titles, &[&rows(&MemberIds::WHOLE), &rows(&short)]));
}

/// Partitions in short: `orders/0-3,7 clicks/1`.
fn partitions(of: &[pb::TopicPartition]) -> String {
    let mut topics: Vec<(&str, Vec<i32>)> = Vec::new();
    for pb::TopicPartition { topic, partition } in of {
        match topics.last_mut().filter(|(last, _)| last == topic) {
            Some((_, numbers)) => numbers.push(*partition),
            None => topics.push((topic, vec![*partition])),
        }
    }
    let shown = topics.iter().map(|(topic, numbers)| format!("{topic}/{}", ranges(numbers)));
    text(&shown.collect::<Vec<_>>().join(" "))
}

/// Numbers in order, in short: `0-3,7`.
fn ranges(numbers: &[i32]) -> String {
    let mut ranges: Vec<(i32, i32)> = Vec::new();
    for number in numbers {
        match ranges.last_mut().filter(|(_, last)| *last + 1 == *number) {
            Some((_, last)) => *last = *number,
            None => ranges.push((*number, *number)),
        }
    }
    let one = |(first, last): &(i32, i32)| if first == last { first.to_string() } else { format!("{first}-{last}") };
    ranges.iter().map(one).collect::<Vec<_>>().join(",")
}

fn show_offsets(offsets: &[pb::GroupOffset]) {
    let row = |ids: &MemberIds, offset: &pb::GroupOffset| {
        let of = offset.topic_partition.clone().unwrap_or_default();
        vec![
            of.topic,
            of.partition.to_string(),
            offset_or_none(offset.committed_offset),
            known(offset.log_end_offset, count),
            known(offset.lag, count),
            time_lag(offset.time_lag),
            ids.shown(&offset.member_id),
        ]
    };
    let short = MemberIds::short(offsets.iter().map(|offset| offset.member_id.as_str()));
    let rows = |ids: &MemberIds| offsets.iter().map(|offset| row(ids, offset)).collect::<Vec<_>>();
    let titles = ["TOPIC", "PARTITION", "COMMITTED", "END", "LAG", "TIME LAG", "MEMBER"];
    output::data(&table_in_forms(&titles, &[&rows(&MemberIds::WHOLE), &rows(&short)]));
    for offset in offsets {
        if let (Some(problem), Some(of)) = (&offset.problem, &offset.topic_partition) {
            output::note(&format!("{}/{}: {problem}", of.topic, of.partition));
        }
    }
    if offsets.iter().any(|offset| offset.compacted) {
        output::note("On compacted topics the lag counts offsets; fewer records may be left.");
    }
}

/// How far groups are behind; of each also its partitions, if there are any.
pub(super) fn show_lags(form: Form, lags: &[&(pb::Group, Vec<pb::GroupOffset>)]) -> Shown {
    let values = || lags.iter().map(|(group, offsets)| with_offsets(group, offsets)).collect::<Result<Vec<_>, _>>();
    match form {
        Form::Name => lags.iter().for_each(|(group, _)| output::data(&group.name)),
        Form::Json => output::document(&json!({ "groups": values()? }))?,
        Form::Ndjson => values()?.iter().for_each(|value| output::data(&value.to_string())),
        Form::Table => {
            let row = |(group, _): &&(pb::Group, Vec<_>)| {
                let lag = known(group.total_lag, count);
                vec![group.name.clone(), state(group), group.member_count.to_string(), lag, time_lag(group.time_lag)]
            };
            let rows: Vec<_> = lags.iter().map(row).collect();
            output::data(&table(&["GROUP", "STATE", "MEMBERS", "LAG", "TIME LAG"], &rows));
            for (group, offsets) in lags.iter().filter(|(_, offsets)| !offsets.is_empty()) {
                output::data(&format!("\n{}", group.name));
                show_offsets(offsets);
            }
        }
    }
    Ok(())
}

/// By how much an offset moves; `None`: there was none.
fn moved_by(change: &pb::OffsetChange) -> Option<i64> {
    change.old_offset.map(|old| change.new_offset - old)
}

/// What a reset moves.
pub(super) fn show_plan(form: Form, plan: &pb::ResetGroupOffsetsResponse, dry_run: bool) -> Shown {
    match form {
        Form::Json => output::document(&message::json(plan)?)?,
        Form::Ndjson => lines(&plan.changes)?,
        Form::Name => plan.changes.iter().filter_map(|change| change.topic_partition.as_ref()).for_each(|of| {
            output::data(&format!("{}/{}", of.topic, of.partition));
        }),
        Form::Table => {
            let row = |change: &pb::OffsetChange| {
                let of = change.topic_partition.clone().unwrap_or_default();
                let sign = if moved_by(change).is_some_and(|by| by > 0) { "+" } else { "" };
                let by = format!("{sign}{}", offset_or_none(moved_by(change)));
                vec![
                    of.topic,
                    of.partition.to_string(),
                    offset_or_none(change.old_offset),
                    count(change.new_offset),
                    by,
                ]
            };
            let rows: Vec<_> = plan.changes.iter().map(row).collect();
            output::data(&table(&["TOPIC", "PARTITION", "NOW", "NEW", "CHANGE"], &rows));
        }
    }
    output::note(&what_moves(plan, dry_run));
    Ok(())
}

fn what_moves(plan: &pb::ResetGroupOffsetsResponse, dry_run: bool) -> String {
    let moving = plan.changes.iter().filter(|change| moved_by(change) != Some(0)).count();
    let moving = plural(i64::try_from(moving).unwrap_or(i64::MAX), "partition");
    let by = |forward: bool| {
        let all = plan.changes.iter().filter_map(moved_by).filter(|by| (*by > 0) == forward);
        plural(all.map(i64::abs).fold(0, i64::saturating_add), "record")
    };
    let (back, over) = (by(false), by(true));
    if dry_run {
        format!("{moving} would move, {back} would be read again, {over} passed over. Nothing was changed.")
    } else {
        format!("{moving} moved, {back} to be read again, {over} passed over.")
    }
}

// === impl MemberIds ===

impl MemberIds {
    const WHOLE: Self = Self { short: None };

    fn short<'a>(all: impl Iterator<Item = &'a str>) -> Self {
        let ids: BTreeSet<&str> = all.collect();
        let common = |(one, other): (&&str, &&str)| {
            one.chars().zip(other.chars()).take_while(|(one, other)| one == other).count()
        };
        let longest = ids.iter().zip(ids.iter().skip(1)).map(common).max().unwrap_or(0);
        Self { short: Some(SHORT_ID_MIN.max(longest + 1)) }
    }

    fn shown(&self, id: &str) -> String {
        match self.short {
            Some(length) if id.chars().count() > length + 1 => {
                format!("{}\u{2026}", id.chars().take(length).collect::<String>())
            }
            _ => text(id),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partitions_are_shown_in_short() {
        let of = |topic: &str, partition| pb::TopicPartition { topic: topic.to_owned(), partition };
        let orders = [0, 1, 2, 3, 7].map(|number| of("orders", number));
        let all: Vec<_> = orders.into_iter().chain([of("x", 1)]).collect();
        assert_eq!(partitions(&all), "orders/0-3,7 x/1");
        assert_eq!(partitions(&[]), "-");
    }

    #[test]
    fn members_are_told_apart_in_short() {
        let ids = ["7c1e6b1c-52a6-4a5e", "7c1e6b1c-5377-0000", ""];
        let short = MemberIds::short(ids.into_iter());
        assert_eq!(ids.map(|id| short.shown(id)), ["7c1e6b1c-52\u{2026}", "7c1e6b1c-53\u{2026}", "-"]);
        assert_eq!(MemberIds::short(ids[..1].iter().copied()).shown(ids[0]), "7c1e6b1c\u{2026}");
        assert_eq!(MemberIds::WHOLE.shown(ids[0]), ids[0]);
    }

    #[test]
    fn what_is_not_known_is_not_shown_as_a_number() {
        let group = pb::Group { name: "g".to_owned(), ..pb::Group::default() };
        assert!(headline(&group).contains("lag not known"), "{}", headline(&group));
        let lag = pbjson_types::Duration { seconds: 75, nanos: 0 };
        assert_eq!((time_lag(None), time_lag(Some(lag))), ("?".to_owned(), "1m 15s".to_owned()));
    }
}
