//! Groups as operators see and change them: `GroupService` beside `Consume`, from outside.

use std::collections::BTreeMap;

use tokio::task::JoinSet;
use walser_client::Client;
use walser_model::{Clock as _, SystemClock};
use walser_proto::v1 as pb;
use walser_proto::v1::reset_group_offsets_request::To;
use walser_rpc::{ApiError, Reason};

use crate::cluster_up::Up;
use crate::faults::{self, until};
use crate::group_member::{Member, at, offset};
use crate::replicated::create_replicated;
use crate::server::{Server, bound, create, place, record, write};

fn reason(status: tonic::Status) -> Reason {
    ApiError::from(status).reason()
}

async fn commit(client: &Client, group: &str, offsets: Vec<pb::OffsetCommit>) -> Vec<pb::PartitionError> {
    let request = pb::CommitOffsetsRequest { group: group.to_owned(), offsets };
    client.groups().commit_offsets(request).await.unwrap().into_inner().errors
}

async fn group_offsets(client: &Client, group: &str) -> Vec<pb::GroupOffset> {
    let request = pb::ListGroupOffsetsRequest { group: group.to_owned(), ..Default::default() };
    client.groups().list_group_offsets(request).await.unwrap().into_inner().offsets
}

fn get_from_admin(server: &Server) -> String {
    faults::get(server, "/metrics")
}

async fn get(client: &Client, group: &str) -> Result<pb::Group, Reason> {
    let answer = client.groups().get_group(pb::GetGroupRequest { name: group.to_owned() }).await;
    answer.map(|answer| answer.into_inner().group.unwrap()).map_err(reason)
}

/// What is committed, by topic and partition.
async fn committed(client: &Client, group: &str) -> BTreeMap<(String, i32), i64> {
    let found = group_offsets(client, group).await.into_iter();
    let committed = found.filter_map(|offset| {
        let of = offset.topic_partition?;
        Some(((of.topic, of.partition), offset.committed_offset?))
    });
    committed.collect()
}

async fn truncate(client: &Client, topic: &str, partition: i32, before: i64) {
    let request = pb::TruncateTopicRequest {
        topic: topic.to_owned(),
        partitions: vec![partition],
        before: Some(pb::Position { at: Some(pb::position::At::Offset(before)) }),
        ..Default::default()
    };
    client.topics().truncate_topic(request).await.unwrap();
}

/// A partition as the model has it: offset and time of every record.
type Log = Vec<(i64, i64)>;

/// Writes records with these times into a partition.
async fn write_at(client: &Client, topic: &str, partition: i32, times: impl Iterator<Item = i64>) -> Log {
    let times: Vec<i64> = times.collect();
    if times.is_empty() {
        return Vec::new();
    }
    let records = times.iter().map(|time| pb::Record { timestamp_millis: Some(*time), ..record("x") }).collect();
    let request =
        pb::ProduceRequest { topic: topic.to_owned(), partition: Some(partition), records, ..Default::default() };
    let written = client.producer().produce(request).await.unwrap().into_inner();
    written.positions.iter().map(|position| position.offset).zip(times).collect()
}

/// Where a reset leads by looking at every record.
fn model(to: &To, log: &Log, end: i64, own: Option<i64>, other: Option<i64>, given: Option<i64>) -> Option<i64> {
    let start = log.first().map_or(end, |(offset, _)| *offset);
    let wanted = match to {
        To::Position(position) => match position.at.unwrap() {
            pb::position::At::Offset(offset) => offset,
            pb::position::At::Bound(bound) if bound == pb::Bound::Earliest as i32 => start,
            pb::position::At::Bound(_) => end,
            pb::position::At::TailCount(count) => end - count,
            pb::position::At::Timestamp(time) => {
                let millis = time.seconds * 1000;
                log.iter().find(|(_, at)| *at >= millis).map_or(end, |(offset, _)| *offset)
            }
            pb::position::At::Age(_) => unreachable!("not asked for"),
        },
        To::Shift(by) => own? + by,
        To::FromGroup(_) => other?,
        To::Offsets(_) => given?,
    };
    Some(wanted.clamp(start, end))
}

fn forms() -> Vec<To> {
    let position = |at| To::Position(pb::Position { at: Some(at) });
    let time = |seconds| position(pb::position::At::Timestamp(pbjson_types::Timestamp { seconds, nanos: 0 }));
    let mut forms = vec![
        To::Position(bound(pb::Bound::Earliest)),
        To::Position(bound(pb::Bound::Latest)),
        To::FromGroup("other".to_owned()),
    ];
    forms.extend([0, 3, 25, 1_000].map(|offset| position(pb::position::At::Offset(offset))));
    forms.extend([0, 4, 1_000].map(|count| position(pb::position::At::TailCount(count))));
    forms.extend([0, 7, 14, 15, 29, 400].map(time));
    forms.extend([-1_000, -3, 0, 2, 1_000, i64::MIN, i64::MAX].map(To::Shift));
    let offsets = [(0, 1), (1, 2), (2, 999)].map(|(partition, to)| offset("t", partition, to)).to_vec();
    forms.push(To::Offsets(pb::OffsetList { offsets }));
    forms
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_form_of_a_reset_moves_as_a_look_at_every_record_says() {
    let (_dir, data) = place();
    let server = Server::start(&data);
    let client = server.client();
    create(&client, "t", 4, &[]).await;
    let mut logs = Vec::new();
    for partition in 0..4 {
        let count = i64::from(partition) * 10;
        // Times that neither grow evenly nor begin together.
        logs.push(write_at(&client, "t", partition, (0..count).map(|number| 1000 * (number - number % 3) + 7)).await);
    }
    truncate(&client, "t", 2, 8).await;
    logs[2].retain(|(offset, _)| *offset >= 8);
    let start: BTreeMap<i32, i64> = [(0, 0), (1, 5), (2, 12)].into();
    let others: BTreeMap<i32, i64> = [(1, 9), (2, 3), (3, 30)].into();
    let ends = [0, 10, 20, 30];
    let commits = |of: &BTreeMap<i32, i64>| of.iter().map(|(partition, at)| offset("t", *partition, *at)).collect();
    assert_eq!(commit(&client, "other", commits(&others)).await, []);
    for to in forms() {
        for named in [false, true] {
            if named && matches!(to, To::Offsets(_)) {
                continue;
            }
            let group = "g";
            assert_eq!(commit(&client, group, commits(&start)).await, []);
            let before = committed(&client, group).await;
            let request = pb::ResetGroupOffsetsRequest {
                group: group.to_owned(),
                topics: if named { vec!["t".to_owned()] } else { Vec::new() },
                to: Some(to.clone()),
                validate_only: true,
                ..Default::default()
            };
            let given = |partition: i32| match &to {
                To::Offsets(list) => list.offsets.get(usize::try_from(partition).unwrap()).map(|given| given.offset),
                _ => None,
            };
            let mut expected = BTreeMap::new();
            for partition in 0..4 {
                let at = usize::try_from(partition).unwrap();
                let (own, other) = (before.get(&("t".to_owned(), partition)).copied(), others.get(&partition).copied());
                let concerned = named
                    || match &to {
                        // Of the topic that the group reads, every partition.
                        To::Position(_) | To::FromGroup(_) | To::Offsets(_) => true,
                        To::Shift(_) => own.is_some(),
                    };
                let target = model_of(&to, &logs[at], ends[at], own, other, given(partition)).filter(|_| concerned);
                expected.extend(target.map(|target| (partition, (own, target))));
            }
            let plan = client.groups().reset_group_offsets(request.clone()).await.unwrap().into_inner();
            let planned: BTreeMap<_, _> = plan.changes.iter().map(changed).collect();
            assert_eq!(planned, expected, "{to:?} named {named}");
            assert_eq!(committed(&client, group).await, before, "a plan changes nothing");
            let request = pb::ResetGroupOffsetsRequest { validate_only: false, ..request };
            let done = client.groups().reset_group_offsets(request).await.unwrap().into_inner();
            assert_eq!(done, plan);
            let after = committed(&client, group).await;
            for (partition, (_, target)) in &expected {
                assert_eq!(after[&("t".to_owned(), *partition)], *target, "{to:?}");
            }
            client.groups().delete_group(pb::DeleteGroupRequest { name: group.to_owned() }).await.unwrap();
        }
    }
    server.assert_no_panic();
}

/// The model, which shifts without overflow.
fn model_of(to: &To, log: &Log, end: i64, own: Option<i64>, other: Option<i64>, given: Option<i64>) -> Option<i64> {
    let bounded = match to {
        To::Shift(by) => To::Shift((*by).clamp(-1_000_000, 1_000_000)),
        other => other.clone(),
    };
    model(&bounded, log, end, own, other, given)
}

fn changed(change: &pb::OffsetChange) -> (i32, (Option<i64>, i64)) {
    (change.topic_partition.as_ref().unwrap().partition, (change.old_offset, change.new_offset))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lag_is_what_is_left_to_read_in_records_and_in_time() {
    let (_dir, data) = place();
    let server = Server::start(&data);
    let client = server.client();
    create(&client, "t", 5, &[]).await;
    let hour_ago = SystemClock::start().now_millis() - 3_600_000;
    for partition in 0..4 {
        // The first record is an hour old, each one after it ten minutes younger.
        write_at(&client, "t", partition, (0..6).map(|number| hour_ago + number * 600_000)).await;
    }
    truncate(&client, "t", 3, 4).await;
    let commits = [(0, 6), (1, 0), (2, 3), (3, 1), (4, 0)];
    let offsets = commits.map(|(partition, at)| offset("t", partition, at)).to_vec();
    assert_eq!(commit(&client, "g", offsets).await, []);
    let found = group_offsets(&client, "g").await;
    let lags: Vec<_> = found.iter().map(|one| one.lag).collect();
    assert_eq!(lags, [0, 6, 3, 2, 0].map(Some), "what was deleted is not left to read");
    let minutes: Vec<_> = found.iter().map(|one| one.time_lag.unwrap().seconds / 60).collect();
    assert_eq!(minutes, [0, 60, 30, 20, 0]);
    let group = get(&client, "g").await.unwrap();
    assert_eq!((group.total_lag, group.r#type()), (Some(11), pb::GroupType::Simple));
    assert_eq!(group.time_lag.unwrap().seconds / 60, 60);
    // A member that has committed nothing of a partition with records: nobody can say how far it is.
    let mut member = Member::join(&client, "new", "t").await;
    member.own(5).await;
    let group = get(&client, "new").await.unwrap();
    assert_eq!((group.total_lag, group.member_count, group.members.len()), (None, 1, 1));
    assert_eq!(group.members[0].assigned.len(), 5);
    assert_eq!(group.members[0].member_id, member.id);
    let unknown: Vec<_> = group_offsets(&client, "new").await.iter().map(|one| one.lag).collect();
    assert_eq!(unknown, [None, None, None, None, Some(0)], "an empty partition has nothing left");
    assert_eq!(member.commit(vec![offset("t", 0, 6)]).await, []);
    member.leave().await;
    let group = get(&client, "new").await.unwrap();
    assert_eq!((group.total_lag, group.member_count), (None, 0), "of the others nobody knows");
    // What is committed behind the end says nothing either.
    assert_eq!(commit(&client, "beyond", vec![offset("t", 0, 99)]).await, []);
    let beyond = group_offsets(&client, "beyond").await;
    assert_eq!((beyond[0].lag, beyond[0].problem.is_some()), (None, true));
    // So says the metric, as of a measurement that has seen all of that.
    assert_eq!(commit(&client, "last", (0..5).map(|partition| offset("t", partition, 0)).collect()).await, []);
    let measured = async || get_from_admin(&server).contains("walser_group_lag{group=\"last\",topic=\"t\"} 20\n");
    until(measured, "the lag is a metric").await;
    let metrics = get_from_admin(&server);
    assert!(metrics.contains("walser_group_lag{group=\"g\",topic=\"t\"} 11\n"), "{metrics}");
    for unknown in ["new", "beyond"] {
        assert!(!metrics.contains(&format!("walser_group_lag{{group=\"{unknown}\"")), "{metrics}");
    }
    server.assert_no_panic();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lag_is_not_made_up_while_a_leader_is_away() {
    let (_place, dir) = place();
    let up = Up::start(&dir);
    let client = up.client();
    create_replicated(&client, "safe", 1, 2).await;
    // One copy: nobody else can lead it.
    let topic = pb::Topic { name: "t".to_owned(), partition_count: 3, replication_factor: 1, ..Default::default() };
    let config = [("min.insync.replicas".to_owned(), "1".to_owned())].into();
    let request = pb::CreateTopicRequest { topic: Some(pb::Topic { config, ..topic }), ..Default::default() };
    client.topics().create_topic(request).await.unwrap();
    for partition in 0..3 {
        write(&client, "t", partition, "x").await;
    }
    let offsets = (0..3).map(|partition| offset("t", partition, 0)).collect();
    assert_eq!(commit(&client, "g", offsets).await, []);
    assert_eq!(get(&client, "g").await.unwrap().total_lag, Some(3));
    up.act_ok(&["kill", "storage-node", "1"]);
    let unknown = async || {
        let Ok(group) = get(&client, "g").await else { return false };
        let all = group_offsets(&client, "g").await;
        let away: Vec<_> = all.iter().filter(|one| one.lag.is_none()).collect();
        (group.total_lag, group.time_lag) == (None, None)
            && away.len() == 1
            && away.iter().all(|one| one.problem.is_some() && one.log_end_offset.is_none() && one.time_lag.is_none())
    };
    until(unknown, "the lag in one partition is not known").await;
    up.act_ok(&["start", "storage-node", "1"]);
    let known = async || get(&client, "g").await.is_ok_and(|group| group.total_lag == Some(3));
    until(known, "the lag is known again").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn groups_are_listed_by_name_page_by_page() {
    let (_dir, data) = place();
    let mut server = Server::start(&data);
    let client = server.client();
    create(&client, "t", 1, &[]).await;
    let names: Vec<String> = (0..1_000).map(|number| format!("group-{number:04}")).collect();
    let mut commits = JoinSet::new();
    for part in names.chunks(50) {
        let (client, part) = (client.clone(), part.to_vec());
        commits.spawn(async move {
            for name in part {
                assert_eq!(commit(&client, &name, vec![offset("t", 0, 0)]).await, []);
            }
        });
    }
    commits.join_all().await;
    for _ in 0..2 {
        let client = server.client();
        let (mut found, mut page_token) = (Vec::new(), String::new());
        loop {
            let request = pb::ListGroupsRequest { page_size: 300, page_token, ..Default::default() };
            let page = client.groups().list_groups(request).await.unwrap().into_inner();
            assert!(page.groups.len() <= 300);
            found.extend(page.groups.into_iter().map(|group| group.name));
            page_token = page.next_page_token;
            if page_token.is_empty() {
                break;
            }
        }
        assert_eq!(found, names);
        let request = pb::ListGroupsRequest { name_contains: "-05".to_owned(), page_size: 1_000, ..Default::default() };
        assert_eq!(client.groups().list_groups(request.clone()).await.unwrap().into_inner().groups.len(), 100);
        let stable = pb::ListGroupsRequest { states: vec![pb::GroupState::Stable.into()], ..request };
        assert_eq!(client.groups().list_groups(stable).await.unwrap().into_inner().groups.len(), 0);
        let other = pb::ListGroupsRequest { page_token: "groups of nobody\nx".to_owned(), ..Default::default() };
        assert_eq!(reason(client.groups().list_groups(other).await.unwrap_err()), Reason::PageTokenInvalid);
        drop(server.kill());
        server = Server::start(&data);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_with_members_is_changed_only_by_force() {
    let (_dir, data) = place();
    let server = Server::start(&data);
    let client = server.client();
    create(&client, "t", 2, &[]).await;
    for partition in 0..2 {
        for number in 0..5 {
            write(&client, "t", partition, format!("{partition}-{number}")).await;
        }
    }
    let mut member = Member::join(&client, "g", "t").await;
    member.read_many(10).await;
    member.commit_all().await;
    let reset = pb::ResetGroupOffsetsRequest {
        group: "g".to_owned(),
        to: Some(To::Position(bound(pb::Bound::Earliest))),
        ..Default::default()
    };
    let mut groups = client.groups();
    assert_eq!(reason(groups.reset_group_offsets(reset.clone()).await.unwrap_err()), Reason::GroupNotEmpty);
    let delete = pb::DeleteGroupRequest { name: "g".to_owned() };
    assert_eq!(reason(groups.delete_group(delete.clone()).await.unwrap_err()), Reason::GroupNotEmpty);
    let forget = pb::DeleteGroupOffsetsRequest { group: "g".to_owned(), topics: vec!["t".to_owned()] };
    assert_eq!(reason(groups.delete_group_offsets(forget.clone()).await.unwrap_err()), Reason::GroupNotEmpty);
    let outside = pb::CommitOffsetsRequest { group: "g".to_owned(), offsets: vec![offset("t", 0, 1)] };
    assert_eq!(reason(groups.commit_offsets(outside).await.unwrap_err()), Reason::GroupNotEmpty);
    // By force: what the member has read is read again, by the same member.
    let forced = pb::ResetGroupOffsetsRequest { force: true, ..reset };
    assert_eq!(groups.reset_group_offsets(forced).await.unwrap().into_inner().changes.len(), 2);
    member.read_many(20).await;
    assert_eq!(member.count(), 20, "all of it once more");
    member.commit_all().await;
    // A member that is removed ends; its group is empty then.
    let nobody = pb::RemoveGroupMemberRequest { group: "g".to_owned(), ..Default::default() };
    assert_eq!(reason(groups.remove_group_member(nobody.clone()).await.unwrap_err()), Reason::FieldInvalid);
    let removal = pb::RemoveGroupMemberRequest { member_id: member.id.clone(), ..nobody };
    groups.remove_group_member(removal.clone()).await.unwrap();
    member.fails().await;
    assert_eq!(reason(groups.remove_group_member(removal).await.unwrap_err()), Reason::SessionExpired);
    assert_eq!(get(&client, "g").await.unwrap().state(), pb::GroupState::Empty);
    groups.delete_group_offsets(forget).await.unwrap();
    assert_eq!(group_offsets(&client, "g").await, []);
    groups.delete_group(delete.clone()).await.unwrap();
    assert_eq!(get(&client, "g").await.unwrap_err(), Reason::GroupNotFound);
    assert_eq!(reason(groups.delete_group(delete).await.unwrap_err()), Reason::GroupNotFound);
    server.assert_no_panic();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_commit_without_a_member_names_wrongly_is_refused_and_the_rest_is_committed() {
    let (_dir, data) = place();
    let server = Server::start(&data);
    let client = server.client();
    create(&client, "t", 1, &[]).await;
    let bad = pb::OffsetCommit { metadata: "x".repeat(5_000), ..offset("t", 0, 4) };
    let offsets = vec![offset("missing", 0, 1), offset("t", 7, 1), offset("t", 0, 3)];
    let refused = commit(&client, "g", offsets).await;
    let reasons: Vec<_> = refused.iter().map(|error| error.error.clone().unwrap().reason).collect();
    assert_eq!(reasons, ["TOPIC_NOT_FOUND", "PARTITION_NOT_FOUND"]);
    assert_eq!(committed(&client, "g").await, [(("t".to_owned(), 0), 3)].into());
    let refused = commit(&client, "g", vec![bad]).await;
    assert_eq!(refused[0].topic_partition, Some(at("t", 0)));
    assert_eq!(refused[0].error.clone().unwrap().reason, "OFFSET_METADATA_TOO_LARGE");
    assert_eq!(refused.len(), 1);
    let refused = commit(&client, "g", vec![offset("t", 0, -1)]).await;
    assert_eq!(refused[0].error.clone().unwrap().reason, "FIELD_INVALID");
    let empty = pb::CommitOffsetsRequest { group: String::new(), offsets: Vec::new() };
    assert_eq!(reason(client.groups().commit_offsets(empty).await.unwrap_err()), Reason::FieldInvalid);
    for (topics, partitions, to) in [
        (vec![], vec![], None),
        (vec![], vec![1], Some(To::Shift(1))),
        (vec!["t"], vec![9], Some(To::Shift(1))),
        (vec!["missing"], vec![], Some(To::Shift(1))),
        (vec!["t"], vec![], Some(To::Offsets(pb::OffsetList::default()))),
        (vec![], vec![], Some(To::FromGroup("nobody".to_owned()))),
        (vec![], vec![], Some(To::Offsets(pb::OffsetList { offsets: vec![offset("t", 0, 1), offset("t", 0, 2)] }))),
    ] {
        let topics = topics.into_iter().map(str::to_owned).collect();
        let request =
            pb::ResetGroupOffsetsRequest { group: "g".to_owned(), topics, partitions, to, ..Default::default() };
        let failure = client.groups().reset_group_offsets(request.clone()).await.unwrap_err();
        let expected = [Reason::FieldInvalid, Reason::PartitionNotFound, Reason::TopicNotFound, Reason::GroupNotFound];
        assert!(expected.contains(&reason(failure.clone())), "{request:?}: {failure}");
    }
    server.assert_no_panic();
}
