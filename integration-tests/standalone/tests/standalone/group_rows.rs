//! Rows of the fault matrix in which groups play: their coordinators and gateways die, hang, and come back.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;
use walser_client::Client;
use walser_proto::v1 as pb;
use walser_proto::v1::consume_request::Message;
use walser_rpc::{ApiError, Reason, shard_of_group};

use crate::cluster_up::Up;
use crate::fault_rows::{times, verdict};
use crate::faults::until;
use crate::group_load::GroupLoad;
use crate::group_member::{Member, join_of, offset};
use crate::load::{Load, PARTITIONS, summary};
use crate::replicated::create_replicated;
use crate::server::{place, write};

/// Groups in eight of the sixteen shards.
fn groups() -> Vec<String> {
    let mut found = BTreeMap::new();
    for number in 0.. {
        let name = format!("g{number}");
        found.entry(shard_of_group(&name.parse().unwrap()) / 2).or_insert(name);
        if found.len() == 8 {
            break;
        }
    }
    found.into_values().collect()
}

/// A cluster, and a client of each of its gateways.
fn cluster(dir: &std::path::Path) -> (Up, [Client; 2]) {
    let up = Up::start(dir);
    let clients = [1, 2].map(|gateway| Client::new(&up.address("gateway", gateway, "grpc")).unwrap());
    (up, clients)
}

/// Hurts processes of a role in turn under load, the next one when commits go on again: no member is another one afterwards,
/// or has other partitions.
async fn hurt_in_turn(row: u32, (role, processes): (&str, usize), hurt: &str, heal: &str) {
    let (_place, dir) = place();
    let (up, [first, second]) = cluster(&dir);
    create_replicated(&first, "t", PARTITIONS, 2).await;
    let mut load = Load::start(&first).await;
    let names = groups();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let members = GroupLoad::start([&first, &second], &names, 10, load.seen()).await;
    let mut gaps = Vec::new();
    for round in 0..times() {
        members.go_on(Instant::now(), 20).await;
        let victim = (round % processes + 1).to_string();
        let since = Instant::now();
        up.act_ok(&[hurt, role, &victim]);
        // Longer than any process has to be heard again.
        members.go_on(since + Duration::from_secs(3), 50).await;
        gaps.push(members.gap(since));
        up.act_ok(&[heal, role, &victim]);
        members.go_on(Instant::now() + Duration::from_secs(1), 20).await;
    }
    members.assert_nothing_moved();
    let ends = load.stop().await;
    members.finish(&ends).await;
    let records = load.judge(&first).await;
    let what = format!("{} x {hurt} of a {role}", gaps.len());
    verdict(
        row,
        &format!("{what}; pause of commits {}; {records} records, none lost, no commit undone", summary(gaps)),
    );
}

const COORDINATORS: (&str, usize) = ("group-coordinator", 2);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_20_a_coordinator_hangs_and_goes_on_later() {
    hurt_in_turn(20, COORDINATORS, "pause", "resume").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_20_a_coordinator_is_killed() {
    hurt_in_turn(20, COORDINATORS, "kill", "start").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_20_a_coordinator_is_stopped_in_good_order() {
    hurt_in_turn(20, COORDINATORS, "stop", "start").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_leaders_of_the_logs_of_groups_are_killed() {
    hurt_in_turn(1, ("storage-node", 3), "kill", "start").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn groups_go_on_while_the_controller_hangs() {
    hurt_in_turn(15, ("controller", 1), "pause", "resume").await;
}

/// The member of a gateway that is killed goes on at another one, as the same member with what it had.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_39_a_gateway_is_killed_and_its_member_goes_on_at_another_one() {
    let (_place, dir) = place();
    let (up, [first, second]) = cluster(&dir);
    create_replicated(&first, "t", 6, 2).await;
    let mut moving = Member::join(&first, "g", "t").await;
    let mut staying = Member::join(&second, "g", "t").await;
    moving.until(|member| member.owned.len() == 3).await;
    staying.own(3).await;
    for partition in 0..6 {
        write(&second, "t", partition, "one").await;
    }
    moving.read_many(3).await;
    moving.commit_all().await;
    staying.read_many(3).await;
    staying.commit_all().await;
    let (id, owned, revoked) = (moving.id.clone(), moving.owned.clone(), staying.revoked.len());
    up.act_ok(&["kill", "gateway", "1"]);
    moving.fails().await;
    let join = pb::ConsumeJoin { resume_token: moving.token.clone(), ..join_of("g", "t") };
    let mut moved = Member::join_as(&second, join).await.unwrap();
    assert_eq!(moved.id, id, "the same member");
    moved.own(3).await;
    assert_eq!(moved.owned.keys().collect::<Vec<_>>(), owned.keys().collect::<Vec<_>>());
    assert!(moved.owned.values().all(|start| *start == 1), "behind its commits: {:?}", moved.owned);
    for partition in 0..6 {
        write(&second, "t", partition, "two").await;
    }
    moved.read_many(3).await;
    staying.read_many(6).await;
    assert!(
        moved
            .values()
            .iter()
            .chain(staying.values().difference(&["one".to_owned()].into()))
            .all(|value| value == "two")
    );
    assert_eq!(staying.revoked.len(), revoked, "nobody else has noticed");
    verdict(39, "kill -9 of a gateway: its member goes on at another one, and nothing moves");
}

/// A gateway hangs with a commit on its way, and its member commits more through another one: nothing goes back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_of_a_gateway_that_hung_undoes_no_later_one() {
    let (_place, dir) = place();
    let (up, [first, second]) = cluster(&dir);
    create_replicated(&first, "t", 1, 2).await;
    for _ in 0..10 {
        write(&second, "t", 0, "v").await;
    }
    let mut member = Member::join(&first, "g", "t").await;
    member.own(1).await;
    member.read_many(10).await;
    up.act_ok(&["pause", "gateway", "1"]);
    // It is in the socket of a process that does nothing.
    member.say(Message::Commit(pb::ConsumeCommit { commit_id: 7, offsets: vec![offset("t", 0, 3)] })).await;
    let join = pb::ConsumeJoin { resume_token: member.token.clone(), ..join_of("g", "t") };
    let mut moved = Member::join_as(&second, join).await.unwrap();
    assert_eq!(moved.id, member.id);
    moved.own(1).await;
    let newest = pb::ConsumeJoin { resume_token: moved.token.clone(), ..join_of("g", "t") };
    assert_eq!(moved.commit(vec![offset("t", 0, 8)]).await, []);
    up.act_ok(&["resume", "gateway", "1"]);
    // What it has to say is an error, or nothing: the commit does not count.
    member.fails().await;
    assert!(member.results.get(&7).is_none_or(|refused| !refused.is_empty()), "{:?}", member.results);
    drop(moved);
    let mut again = Member::join_as(&first, newest).await.unwrap();
    again.own(1).await;
    assert!(again.owned.values().all(|start| *start == 8), "{:?}", again.owned);
}

/// One that nobody has heard for its session timeout is gone: what it says then does not count, and disturbs nobody.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_21_a_member_that_was_away_for_too_long_commits_nothing() {
    let (_place, dir) = place();
    let (up, [first, second]) = cluster(&dir);
    create_replicated(&first, "t", 2, 2).await;
    for partition in [0, 1] {
        for _ in 0..10 {
            write(&second, "t", partition, "v").await;
        }
    }
    let session_timeout = Some(pbjson_types::Duration { seconds: 6, nanos: 0 });
    let briefly = pb::ConsumeJoin { session_timeout, ..join_of("g", "t") };
    let mut away = Member::join_as(&first, briefly.clone()).await.unwrap();
    away.own(2).await;
    away.read_many(20).await;
    let mut there = Member::join_as(&second, briefly).await.unwrap();
    there.own(1).await;
    up.act_ok(&["pause", "gateway", "1"]);
    there.own(2).await;
    there.read_many(20).await;
    there.commit_all().await;
    let late = vec![offset("t", 0, 3), offset("t", 1, 3)];
    away.say(Message::Commit(pb::ConsumeCommit { commit_id: 7, offsets: late })).await;
    up.act_ok(&["resume", "gateway", "1"]);
    let failure = ApiError::from(away.fails().await);
    assert!(matches!(failure.reason(), Reason::SessionExpired | Reason::GatewayDraining), "{failure:?}");
    assert!(away.results.get(&7).is_none_or(|refused| refused.len() == 2), "{:?}", away.results);
    for partition in [0, 1] {
        write(&second, "t", partition, "w").await;
    }
    there.read_many(22).await;
    assert_eq!(there.revoked.len(), 0, "the new owner has not noticed");
    there.leave().await;
    let mut next = Member::join(&second, "g", "t").await;
    next.own(2).await;
    assert!(next.owned.values().all(|start| *start == 10), "{:?}", next.owned);
    verdict(
        21,
        "a member that was away for longer than its session commits nothing, and the new owner has not noticed",
    );
}

/// A static member that went while there was no coordinator is not held to be there because others ask at its gateway.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_static_member_comes_back_after_an_outage_of_all_coordinators() {
    let (_place, dir) = place();
    let (up, [first, _]) = cluster(&dir);
    create_replicated(&first, "t", 1, 2).await;
    let join = pb::ConsumeJoin { instance_id: "worker-1".to_owned(), ..join_of("g", "t") };
    let mut member = Member::join_as(&first, join.clone()).await.unwrap();
    member.own(1).await;
    up.act_ok(&["kill", "group-coordinator"]);
    drop(member);
    // Longer than its gateway tries to say so.
    tokio::time::sleep(Duration::from_secs(6)).await;
    up.act_ok(&["start", "group-coordinator"]);
    // As one that is started again and again.
    until(async || Member::try_join(&first, join.clone()).await, "its successor takes its place").await;
}
