//! `GroupService.Consume` of `walser up`, from outside.

use std::collections::BTreeSet;

use walser_client::Client;
use walser_proto::v1 as pb;
use walser_proto::v1::consume_request::Message;
use walser_rpc::{ApiError, Reason};

use crate::group_member::{Member, at, join_of, offset};
use crate::server::{Server, create, place, write};

fn reason(status: tonic::Status) -> Reason {
    ApiError::from(status).reason()
}

/// Writes records `from..to` to each partition; their values name partition and number.
async fn fill(client: &Client, topic: &str, partitions: i32, from: i64, to: i64) {
    for partition in 0..partitions {
        for number in from..to {
            write(client, topic, partition, format!("{partition}-{number}")).await;
        }
    }
}

fn values(partitions: i32, from: i64, to: i64) -> BTreeSet<String> {
    (0..partitions).flat_map(|partition| (from..to).map(move |number| format!("{partition}-{number}"))).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_reads_everything_once_and_goes_on_behind_its_commits_after_a_restart() {
    let (_dir, data) = place();
    let mut server = Server::start(&data);
    create(&server.client(), "t", 3, &[]).await;
    // One that is there when the server is killed keeps its partitions for its session timeout.
    let session_timeout = Some(pbjson_types::Duration { seconds: 6, nanos: 0 });
    let briefly = pb::ConsumeJoin { session_timeout, ..join_of("g", "t") };
    for round in 0..3 {
        let client = server.client();
        fill(&client, "t", 3, 10 * round, 10 * (round + 1)).await;
        let mut member = Member::join(&client, "g", "t").await;
        member.read_many(30).await;
        assert_eq!(member.values(), values(3, 10 * round, 10 * (round + 1)), "round {round}");
        assert!(member.owned.values().all(|start| *start == 10 * round));
        member.until(|member| member.caught_up == 1).await;
        // A record that is read and not committed is read again.
        let offsets = (0..3).map(|partition| offset("t", partition, 10 * (round + 1) - 1)).collect();
        assert_eq!(member.commit(offsets).await, []);
        let member = member.leave().await;
        assert_eq!(member.count(), 30);
        let mut again = Member::join_as(&client, briefly.clone()).await.unwrap();
        again.read_many(3).await;
        assert_eq!(again.values(), values(3, 10 * round + 9, 10 * round + 10));
        again.commit_all().await;
        drop(again);
        match round {
            0 => drop(server.kill()),
            _ => drop(server.stop()),
        }
        server = Server::start(&data);
    }
    // Another group reads all of it.
    let mut other = Member::join(&server.client(), "other", "t").await;
    other.read_many(90).await;
    assert_eq!(other.values(), values(3, 0, 30));
    server.assert_no_panic();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_share_partitions_and_what_one_held_goes_to_the_others() {
    let (_dir, data) = place();
    let server = Server::start(&data);
    let client = server.client();
    create(&client, "t", 6, &[]).await;
    let mut first = Member::join(&client, "g", "t").await;
    first.own(6).await;
    let mut second = Member::join(&client, "g", "t").await;
    // What it keeps is not interrupted: only what goes is revoked.
    first.until(|member| member.owned.len() == 3).await;
    second.own(3).await;
    assert_eq!(first.revoked.iter().map(|revoked| revoked.partitions.len()).sum::<usize>(), 3);
    assert!(first.revoked.iter().all(|revoked| revoked.cause() == pb::RevocationCause::Rebalance));
    fill(&client, "t", 6, 0, 5).await;
    first.read_many(15).await;
    second.read_many(15).await;
    assert_eq!(&first.values() | &second.values(), values(6, 0, 5));
    first.commit_all().await;
    second.commit_all().await;
    // A commit of what is not its own is refused, and nothing else is.
    let foreign = first.read.keys().next().copied().unwrap();
    let own = second.read.keys().next().copied().unwrap();
    let refused = second.commit(vec![offset("t", foreign, 1), offset("t", own, 5), offset("t", 77, 0)]).await;
    let reasons: Vec<_> = refused.iter().map(|error| error.error.clone().unwrap().reason).collect();
    assert_eq!(reasons, ["PARTITION_NOT_OWNED", "PARTITION_NOT_OWNED"]);
    // One that goes without a word leaves all it had, behind its commits.
    drop(second);
    first.own(6).await;
    assert!(first.owned.values().all(|start| *start == 0 || *start == 5), "{:?}", first.owned);
    fill(&client, "t", 6, 5, 6).await;
    first.until(|member| member.count() >= 21).await;
    assert_eq!(first.count(), 21, "nothing that was committed is read again");
    first.commit_all().await;
    first.leave().await;
    server.assert_no_panic();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_breaks_is_opened_again_with_its_token_and_nothing_moves() {
    let (_dir, data) = place();
    let server = Server::start(&data);
    let client = server.client();
    create(&client, "t", 4, &[]).await;
    let mut other = Member::join(&client, "g", "t").await;
    let mut member = Member::join(&client, "g", "t").await;
    member.own(2).await;
    other.own(2).await;
    let (owned, revoked) = (member.owned.clone(), other.revoked.len());
    let (id, mut token) = (member.id.clone(), member.token.clone());
    for _ in 0..20 {
        drop(member);
        member = Member::join_as(&client, pb::ConsumeJoin { resume_token: token, ..join_of("g", "t") }).await.unwrap();
        assert_eq!(member.id, id);
        member.own(2).await;
        assert_eq!(member.owned, owned);
        token = member.token.clone();
    }
    // While a stream is open, another one with its token takes its place.
    let newer = pb::ConsumeJoin { resume_token: token.clone(), ..join_of("g", "t") };
    let mut newer = Member::join_as(&client, newer).await.unwrap();
    assert_eq!(reason(member.fails().await), Reason::MemberFenced);
    assert_eq!(member.revoked[0].cause(), pb::RevocationCause::Fenced);
    newer.own(2).await;
    fill(&client, "t", 4, 0, 1).await;
    newer.read_many(2).await;
    newer.commit_all().await;
    other.read_many(2).await;
    // An old token is refused, and disturbs nobody, once the newer one has been used.
    let old = pb::ConsumeJoin { resume_token: token, ..join_of("g", "t") };
    let refused = Member::join_as(&client, old).await.err().unwrap();
    assert_eq!(reason(refused), Reason::MemberFenced);
    newer.commit_all().await;
    assert_eq!(other.revoked.len(), revoked, "nothing was taken from the other");
    // The token of a member that has left joins anew.
    let token = newer.token.clone();
    newer.leave().await;
    let again = pb::ConsumeJoin { resume_token: token, ..join_of("g", "t") };
    assert_ne!(Member::join_as(&client, again).await.unwrap().id, id);
    server.assert_no_panic();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_member_may_do_with_a_partition() {
    let (_dir, data) = place();
    let server = Server::start(&data);
    let client = server.client();
    create(&client, "t", 2, &[]).await;
    fill(&client, "t", 2, 0, 10).await;
    let mut member = Member::join(&client, "g", "t").await;
    member.read_many(20).await;
    assert_eq!(member.commit(vec![offset("t", 0, 10)]).await, []);
    member.say(Message::Pause(at("t", 0))).await;
    let earlier = pb::ReadTarget {
        topic: "t".to_owned(),
        partition: Some(1),
        start: Some(pb::Position { at: Some(pb::position::At::Offset(7)) }),
        ..Default::default()
    };
    member.say(Message::Seek(earlier)).await;
    member.read_many(23).await;
    assert_eq!(member.read[&1].last().unwrap().0, 9);
    fill(&client, "t", 2, 10, 11).await;
    member.until(|member| member.read[&1].last().unwrap().0 == 10).await;
    assert_eq!(member.read[&0].len(), 10, "it is paused");
    member.say(Message::Resume(at("t", 0))).await;
    member.until(|member| member.read[&0].len() == 11).await;
    // A commit goes back only behind a seek.
    assert_eq!(member.commit(vec![offset("t", 1, 8)]).await, []);
    member.say(Message::Pause(at("t", 5))).await;
    member.until(|member| !member.problems.is_empty()).await;
    let of_commits = member.commit(vec![offset("t", 0, -1), offset("t", 0, i64::MAX)]).await;
    assert_eq!(of_commits.len(), 1, "an offset beyond the end is one that may come: {of_commits:?}");
    assert_eq!(of_commits[0].error.clone().unwrap().reason, "FIELD_INVALID");
    let long = pb::OffsetCommit { metadata: "m".repeat(4097), ..offset("t", 1, 8) };
    let refused = member.commit(vec![long]).await;
    assert_eq!(refused[0].error.clone().unwrap().reason, "OFFSET_METADATA_TOO_LARGE");
    assert_eq!(member.commit(vec![pb::OffsetCommit { metadata: "m".repeat(4096), ..offset("t", 1, 8) }]).await, []);
    member.leave().await;
    let mut later = Member::join(&client, "g", "t").await;
    later.until(|member| member.owned.len() == 2 && !member.resets.is_empty()).await;
    assert_eq!(later.owned[&("t".to_owned(), 1)], 8);
    assert_eq!(later.commit(vec![offset("t", 1, 7)]).await.len(), 1, "another member may have committed more");
    server.assert_no_panic();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn credit_is_exact_and_commits_do_not_wait_for_it() {
    let (_dir, data) = place();
    let server = Server::start(&data);
    let client = server.client();
    create(&client, "t", 1, &[]).await;
    fill(&client, "t", 1, 0, 20).await;
    let credit = |records| pb::Credit { bytes: 1 << 20, records };
    let asked = pb::ConsumeJoin { auto_credit: Some(false), credit: Some(credit(3)), ..join_of("g", "t") };
    let mut member = Member::join_as(&client, asked).await.unwrap();
    member.read_many(3).await;
    for granted in 1..=5 {
        assert_eq!(member.commit(vec![offset("t", 0, 2 + granted)]).await, []);
        assert_eq!(member.count(), usize::try_from(2 + granted).unwrap(), "not one record more");
        member.say(Message::Credit(credit(1))).await;
        member.read_many(usize::try_from(3 + granted).unwrap()).await;
    }
    assert_eq!(member.read[&0].iter().map(|(offset, _)| *offset).collect::<Vec<_>>(), (0..8).collect::<Vec<_>>());
    let wrong = pb::ConsumeJoin { auto_credit: Some(false), ..join_of("g", "t") };
    assert_eq!(reason(Member::join_as(&client, wrong).await.err().unwrap()), Reason::FieldInvalid);
    let mut open = Member::join(&client, "other", "t").await;
    open.say(Message::Credit(credit(1))).await;
    assert_eq!(reason(open.fails().await), Reason::StreamProtocolViolation);
    server.assert_no_panic();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_confirms_is_waited_for_and_commits_last() {
    let (_dir, data) = place();
    let server = Server::start(&data);
    let client = server.client();
    create(&client, "t", 2, &[]).await;
    fill(&client, "t", 2, 0, 4).await;
    let confirms = pb::ConsumeJoin { confirm_revocation: true, ..join_of("g", "t") };
    let mut first = Member::join_as(&client, confirms).await.unwrap();
    first.read_many(8).await;
    let mut second = Member::join(&client, "g", "t").await;
    first.until(|member| !member.revoking.is_empty()).await;
    let revoking = first.revoking[0].clone();
    assert_eq!(revoking.partitions.len(), 1);
    let going = revoking.partitions[0].partition;
    assert!(second.owned.is_empty());
    let last = pb::ConfirmRevocation { revocation_id: revoking.revocation_id, offsets: vec![offset("t", going, 4)] };
    first.say(Message::ConfirmRevocation(last)).await;
    first.own(1).await;
    second.own(1).await;
    assert_eq!(second.owned[&("t".to_owned(), going)], 4, "the last commit came before the move");
    server.assert_no_panic();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_is_stuck_loses_its_partitions_and_one_that_works_on_does_not() {
    let (_dir, data) = place();
    let server = Server::start(&data);
    let client = server.client();
    create(&client, "t", 1, &[]).await;
    fill(&client, "t", 1, 0, 2).await;
    let second = Some(pbjson_types::Duration { seconds: 1, nanos: 0 });
    let short = pb::ConsumeJoin { processing_timeout: second, ..join_of("g", "t") };
    let mut stuck = Member::join_as(&client, short.clone()).await.unwrap();
    stuck.read_many(2).await;
    let failure = ApiError::from(stuck.fails().await);
    assert_eq!((failure.reason(), failure.value("cause")), (Reason::SessionExpired, Some("processing-timeout")));
    assert_eq!(stuck.revoked[0].cause(), pb::RevocationCause::ProcessingTimeout);
    // One that has committed may be idle for ever, and one that needs longer says so.
    let mut idle = Member::join_as(&client, short.clone()).await.unwrap();
    idle.read_many(2).await;
    let hour = Some(pbjson_types::Duration { seconds: 3600, nanos: 0 });
    idle.say(Message::ExtendProcessing(pb::ExtendProcessing { extension: hour })).await;
    let begun = tokio::time::Instant::now();
    while begun.elapsed() < std::time::Duration::from_secs(3) {
        assert_eq!(idle.commit(Vec::new()).await, []);
    }
    idle.commit_all().await;
    server.assert_no_panic();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_committed_before_it_is_sent_is_never_sent_twice() {
    let (_dir, data) = place();
    let server = Server::start(&data);
    let client = server.client();
    create(&client, "t", 2, &[]).await;
    fill(&client, "t", 2, 0, 50).await;
    let once = pb::ConsumeJoin { commit_mode: pb::CommitMode::BeforeDelivery.into(), ..join_of("g", "t") };
    let mut seen = Vec::new();
    for _ in 0..4 {
        let mut member = Member::join_as(&client, once.clone()).await.unwrap();
        member.own(2).await;
        fill(&client, "t", 2, 50, 51).await;
        member.read_many(1).await;
        seen.extend(
            member
                .read
                .into_iter()
                .flat_map(|(partition, read)| read.into_iter().map(move |(offset, _)| (partition, offset))),
        );
    }
    let distinct: BTreeSet<_> = seen.iter().collect();
    assert_eq!(distinct.len(), seen.len());
    let mut commits = Member::join_as(&client, once).await.unwrap();
    commits.say(Message::Commit(pb::ConsumeCommit { commit_id: 1, offsets: Vec::new() })).await;
    assert_eq!(reason(commits.fails().await), Reason::StreamProtocolViolation);
    server.assert_no_panic();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_join_that_says_nothing_useful_is_refused_with_what_to_do() {
    let (_dir, data) = place();
    let server = Server::start(&data);
    let client = server.client();
    create(&client, "t", 1, &[]).await;
    let join = |change: &dyn Fn(&mut pb::ConsumeJoin)| {
        let mut join = join_of("g", "t");
        change(&mut join);
        join
    };
    let seconds = |seconds| Some(pbjson_types::Duration { seconds, nanos: 0 });
    for (join, expected) in [
        (join(&|join| join.group = String::new()), Reason::FieldInvalid),
        (join(&|join| join.group = "x".repeat(257)), Reason::FieldInvalid),
        (join(&|join| join.group = "a\nb".to_owned()), Reason::FieldInvalid),
        (join(&|join| join.topics.clear()), Reason::FieldInvalid),
        (join(&|join| join.topics = vec!["no such/name".to_owned()]), Reason::TopicNameInvalid),
        (join(&|join| join.topic_pattern = "(".to_owned()), Reason::FieldInvalid),
        (join(&|join| join.assignor = "sticky".to_owned()), Reason::AssignorUnsupported),
        (join(&|join| join.resume_token = "nonsense!".to_owned()), Reason::FieldInvalid),
        (join(&|join| join.resume_token = "A".repeat(9_000)), Reason::FieldInvalid),
        (join(&|join| join.session_timeout = seconds(5)), Reason::FieldInvalid),
        (join(&|join| join.session_timeout = seconds(-1)), Reason::FieldInvalid),
        (join(&|join| join.processing_timeout = seconds(0)), Reason::FieldInvalid),
        (join(&|join| join.revocation_timeout = seconds(601)), Reason::FieldInvalid),
        (join(&|join| join.commit_mode = 9), Reason::FieldInvalid),
        (join(&|join| join.start = Some(pb::Position::default())), Reason::FieldInvalid),
    ] {
        let asked = format!("{join:?}");
        let refused = Member::join_as(&client, join).await.err().unwrap_or_else(|| panic!("taken: {asked}"));
        assert_eq!(reason(refused), expected, "{asked}");
    }
    let mut member = Member::join(&client, "g", "t").await;
    member.say(Message::Join(join_of("g", "t"))).await;
    assert_eq!(reason(member.fails().await), Reason::StreamProtocolViolation);
    // A token of another group, and one of a member that never was.
    let token = Member::join(&client, "one", "t").await.token;
    let foreign = pb::ConsumeJoin { resume_token: token, ..join_of("two", "t") };
    assert_eq!(reason(Member::join_as(&client, foreign).await.err().unwrap()), Reason::FieldInvalid);
    // A static member that is there is not replaced.
    let named = pb::ConsumeJoin { instance_id: "i".to_owned(), ..join_of("g", "t") };
    let _first = Member::join_as(&client, named.clone()).await.unwrap();
    assert_eq!(reason(Member::join_as(&client, named).await.err().unwrap()), Reason::InstanceIdInUse);
    server.assert_no_panic();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn topics_that_come_grow_and_go_are_followed() {
    let (_dir, data) = place();
    let server = Server::start(&data);
    let client = server.client();
    let pattern = pb::ConsumeJoin { topic_pattern: "ev.*".to_owned(), topics: Vec::new(), ..join_of("g", "") };
    let mut member = Member::join_as(&client, pattern).await.unwrap();
    create(&client, "events", 1, &[]).await;
    create(&client, "other", 1, &[]).await;
    member.own(1).await;
    let grow = pb::AddPartitionsRequest { topic: "events".to_owned(), partition_count: 3, ..Default::default() };
    client.topics().add_partitions(grow).await.unwrap();
    member.own(3).await;
    fill(&client, "events", 3, 0, 2).await;
    member.read_many(6).await;
    member.commit_all().await;
    let delete = pb::DeleteTopicRequest { name: "events".to_owned(), ..Default::default() };
    client.topics().delete_topic(delete).await.unwrap();
    member.own(0).await;
    assert_eq!(member.revoked[0].cause(), pb::RevocationCause::TopicDeleted);
    // The same name is another topic, which is read from its start, and a late commit of the one before is none of it.
    let before = member.topic_ids["events"].clone();
    create(&client, "events", 1, &[]).await;
    fill(&client, "events", 1, 0, 1).await;
    member.read_many(7).await;
    let of_before = pb::OffsetCommit { topic_id: before, ..offset("events", 0, 1) };
    let refused = member.commit(vec![of_before]).await;
    assert_eq!(refused[0].error.as_ref().unwrap().reason, "TOPIC_NOT_FOUND");
    let own = pb::OffsetCommit { topic_id: member.topic_ids["events"].clone(), ..offset("events", 0, 1) };
    assert_eq!(member.commit(vec![own]).await, []);
    let no_id = pb::OffsetCommit { topic_id: "x".to_owned(), ..offset("events", 0, 1) };
    member.say(Message::Commit(pb::ConsumeCommit { commit_id: 99, offsets: vec![no_id] })).await;
    assert_eq!(reason(member.fails().await), Reason::FieldInvalid);
    server.assert_no_panic();
}

/// Nobody else would open the session of their shard: neither after a restart, nor after a time without members.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_is_good_after_a_restart_of_the_server_without_anybody_else() {
    let (_dir, data) = place();
    let server = Server::start(&data);
    create(&server.client(), "t", 1, &[]).await;
    fill(&server.client(), "t", 1, 0, 3).await;
    let mut member = Member::join(&server.client(), "g", "t").await;
    member.read_many(3).await;
    member.commit_all().await;
    let (id, token) = (member.id.clone(), member.token.clone());
    drop(server.kill());
    let server = Server::start(&data);
    let client = server.client();
    let again = pb::ConsumeJoin { resume_token: token, ..join_of("g", "t") };
    let mut member = Member::join_as(&client, again).await.unwrap();
    assert_eq!(member.id, id);
    fill(&client, "t", 1, 3, 4).await;
    member.read_many(1).await;
    assert_eq!(member.values(), values(1, 3, 4));
    server.assert_no_panic();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_refused_is_bounded_and_fits_the_messages_of_the_client() {
    let (_dir, data) = place();
    let server = Server::start(&data);
    let client = server.client();
    let long = "n".repeat(200);
    create(&client, &long, 1, &[]).await;
    let options = Some(pb::ReadOptions { max_message_bytes: 64 << 10, ..Default::default() });
    let small = pb::ConsumeJoin { options, ..join_of("g", &long) };
    let mut member = Member::join_as(&client, small).await.unwrap();
    let foreign = (1..=1_000).map(|partition| offset(&long, partition, 1)).collect();
    let told = member.commit(foreign).await.len();
    assert!(told < 1_000 && told + member.problems.len() == 1_000, "{told} and {}", member.problems.len());
    server.assert_no_panic();
}

/// Before they are sent, no more records are committed than the client may be sent.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn credit_bounds_what_is_committed_before_delivery() {
    let (_dir, data) = place();
    let server = Server::start(&data);
    let client = server.client();
    create(&client, "t", 1, &[]).await;
    fill(&client, "t", 1, 0, 50).await;
    let credit = Some(pb::Credit { bytes: 1 << 20, records: 10 });
    let commit_mode = pb::CommitMode::BeforeDelivery.into();
    let asked = pb::ConsumeJoin { auto_credit: Some(false), credit, commit_mode, ..join_of("g", "t") };
    for round in 0..5 {
        let mut member = Member::join_as(&client, asked.clone()).await.unwrap();
        member.read_many(10).await;
        assert_eq!(member.read[&0][0].0, 10 * round, "nothing was lost and nothing comes twice");
        assert_eq!(member.leave().await.count(), 10);
    }
    server.assert_no_panic();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_a_group_began_is_kept_also_when_nothing_was_committed() {
    let (_dir, data) = place();
    let server = Server::start(&data);
    let client = server.client();
    create(&client, "t", 1, &[]).await;
    fill(&client, "t", 1, 0, 3).await;
    let latest = pb::Position { at: Some(pb::position::At::Bound(pb::Bound::Latest.into())) };
    let latest = pb::ConsumeJoin { start: Some(latest), ..join_of("g", "t") };
    let mut member = Member::join_as(&client, latest.clone()).await.unwrap();
    member.own(1).await;
    // Whatever was to be written before it leaves is written then.
    member.leave().await;
    fill(&client, "t", 1, 3, 5).await;
    let mut again = Member::join_as(&client, latest).await.unwrap();
    again.read_many(2).await;
    assert_eq!(again.values(), values(1, 3, 5));
    server.assert_no_panic();
}
