//! `PollGroup`: members that are nothing but calls, from outside.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};

use walser_client::Client;
use walser_proto::v1 as pb;
use walser_rpc::{ApiError, Reason};

use crate::cluster_up::Up;
use crate::faults::until;
use crate::group_member::{Member, join_of, offset};
use crate::replicated::create_replicated;
use crate::server::{Server, bound, create, place, write};

fn reason(status: tonic::Status) -> Reason {
    ApiError::from(status).reason()
}

/// A client that polls: it has the last token, and what it has read.
struct Poller {
    join: pb::ConsumeJoin,
    token: String,
    /// Offsets by partition, in the order in which they came.
    read: BTreeMap<i32, Vec<i64>>,
    owned: usize,
    revoked: usize,
}

impl Poller {
    fn of(join: pb::ConsumeJoin) -> Self {
        Self { join, token: String::new(), read: BTreeMap::new(), owned: 0, revoked: 0 }
    }

    /// The next call: it joins once, and commits what the last one has delivered.
    fn request(&self) -> pb::PollGroupRequest {
        pb::PollGroupRequest {
            join: self.token.is_empty().then(|| self.join.clone()),
            token: self.token.clone(),
            commit_previous: true,
            max_wait: Some(pbjson_types::Duration { seconds: 1, nanos: 0 }),
            max_records: 7,
            ..Default::default()
        }
    }

    async fn try_poll(&self, client: &Client) -> Result<pb::PollGroupResponse, tonic::Status> {
        client.groups().poll_group(self.request()).await.map(tonic::Response::into_inner)
    }

    fn take(&mut self, answer: pb::PollGroupResponse) -> usize {
        assert_eq!((answer.errors, answer.commit_errors), (Vec::new(), Vec::new()));
        let mut count = 0;
        for chunk in &answer.chunks {
            count += chunk.records.len();
            self.read.entry(chunk.partition).or_default().extend(chunk.records.iter().map(|record| record.offset));
        }
        (self.token, self.owned) = (answer.token, answer.owned.len());
        self.revoked += answer.revoked.map_or(0, |revoked| revoked.partitions.len());
        count
    }

    async fn poll(&mut self, client: &Client) -> usize {
        let answer = self.try_poll(client).await.unwrap();
        self.take(answer)
    }

    /// Polls until it has read so many records, and once more, which commits the last ones.
    async fn read(&mut self, client: &Client, count: usize) {
        while self.read.values().map(Vec::len).sum::<usize>() < count {
            self.poll(client).await;
        }
        assert_eq!(self.poll(client).await, 0, "more than was written");
    }

    /// Every partition was read once, from `from` to `to`, in order.
    fn has_all(&self, partitions: i32, from: i64, to: i64) {
        let expected: BTreeMap<_, _> = (0..partitions).map(|number| (number, (from..to).collect::<Vec<_>>())).collect();
        assert_eq!(self.read, expected);
    }
}

async fn fill(client: &Client, partitions: i32, from: i64, to: i64) {
    for partition in 0..partitions {
        for number in from..to {
            assert_eq!(write(client, "t", partition, format!("{partition}-{number}")).await, number);
        }
    }
}

async fn committed(client: &Client, group: &str) -> Vec<Option<i64>> {
    let request = pb::ListGroupOffsetsRequest { group: group.to_owned(), ..Default::default() };
    let offsets = client.groups().list_group_offsets(request).await.unwrap().into_inner().offsets;
    offsets.into_iter().map(|offset| offset.committed_offset).collect()
}

/// The reasons for which commits were refused.
fn refusals(answer: &pb::PollGroupResponse) -> Vec<String> {
    answer.commit_errors.iter().map(|error| error.error.clone().unwrap().reason).collect()
}

async fn leave(client: &Client, token: &str) {
    client.groups().leave_group(pb::LeaveGroupRequest { token: token.to_owned() }).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_alone_read_everything_once_in_order_also_across_a_restart() {
    let (_dir, data) = place();
    let mut server = Server::start(&data);
    let client = server.client();
    create(&client, "t", 3, &[]).await;
    fill(&client, 3, 0, 20).await;
    let mut poller = Poller::of(join_of("g", "t"));
    poller.read(&client, 60).await;
    poller.has_all(3, 0, 20);
    assert_eq!(poller.owned, 3);
    assert_eq!(committed(&client, "g").await, [Some(20); 3]);
    // The token is all there is of the member: it is good at a server that was killed and started again.
    drop(server.kill());
    server = Server::start(&data);
    let client = server.client();
    fill(&client, 3, 20, 30).await;
    poller.read(&client, 90).await;
    poller.has_all(3, 0, 30);
    leave(&client, &poller.token).await;
    leave(&client, &poller.token).await;
    let left = poller.try_poll(&client).await.unwrap_err();
    assert_eq!(reason(left), Reason::SessionExpired);
    // What is committed is not read by the next one.
    let mut next = Poller::of(join_of("g", "t"));
    next.poll(&client).await;
    assert_eq!((next.owned, next.read.len()), (3, 0));
    server.assert_no_panic();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_without_an_answer_is_made_again_and_an_older_token_is_refused() {
    let (_dir, data) = place();
    let server = Server::start(&data);
    let client = server.client();
    create(&client, "t", 1, &[]).await;
    fill(&client, 1, 0, 40).await;
    let mut poller = Poller::of(join_of("g", "t"));
    assert_eq!(poller.poll(&client).await, 7);
    let first = poller.token.clone();
    // Its answer is lost, again and again: what comes is the same each time.
    let lost = [poller.try_poll(&client).await.unwrap(), poller.try_poll(&client).await.unwrap()];
    assert_eq!(poller.poll(&client).await, 7);
    for lost in &lost {
        let offsets: Vec<_> = lost.chunks[0].records.iter().map(|record| record.offset).collect();
        assert_eq!(offsets, (7..14).collect::<Vec<_>>());
    }
    assert_eq!(committed(&client, "g").await, [Some(7)]);
    assert_eq!(poller.poll(&client).await, 7);
    let old = Poller { token: first, ..Poller::of(join_of("g", "t")) };
    assert_eq!(reason(old.try_poll(&client).await.unwrap_err()), Reason::MemberFenced);
    let superseded = Poller { token: lost[0].token.clone(), ..Poller::of(join_of("g", "t")) };
    assert_eq!(reason(superseded.try_poll(&client).await.unwrap_err()), Reason::MemberFenced);
    // A call that was given up may be served late: the client goes on with the answer that it has.
    let [answer, _late] = [poller.try_poll(&client).await.unwrap(), poller.try_poll(&client).await.unwrap()];
    assert_eq!(poller.take(answer), 7);
    poller.read(&client, 40).await;
    poller.has_all(1, 0, 40);
    server.assert_no_panic();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_is_made_again_has_committed_what_it_has_let_go() {
    let (_dir, data) = place();
    let server = Server::start(&data);
    let client = server.client();
    create(&client, "t", 2, &[]).await;
    fill(&client, 2, 0, 3).await;
    let mut first = Poller::of(join_of("g", "t"));
    assert_eq!(first.poll(&client).await, 6);
    let mut second = Member::join(&client, "g", "t").await;
    while second.owned.is_empty() {
        // Its answers are lost.
        first.try_poll(&client).await.unwrap();
        second.step().await.unwrap();
    }
    let answer = first.try_poll(&client).await.unwrap();
    assert_eq!((&answer.commit_errors, answer.owned.len()), (&Vec::new(), 1));
    assert_eq!(committed(&client, "g").await, [Some(3); 2]);
    server.assert_no_panic();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_that_was_made_up_or_is_of_another_cluster_is_refused() {
    let (_dir, data) = place();
    let server = Server::start(&data);
    let client = server.client();
    create(&client, "t", 1, &[]).await;
    let mut poller = Poller::of(join_of("g", "t"));
    poller.poll(&client).await;
    let good = poller.token.clone();
    for at in 0..good.len() {
        let mut forged = good.clone().into_bytes();
        forged[at] = if forged[at] == b'A' { b'B' } else { b'A' };
        let forged = Poller { token: String::from_utf8(forged).unwrap(), ..Poller::of(join_of("g", "t")) };
        // The last character has bits that mean nothing: then it is the same token.
        match forged.try_poll(&client).await {
            Err(status) => assert!(matches!(reason(status), Reason::FieldInvalid | Reason::MemberFenced)),
            Ok(answer) => assert!(at + 1 == good.len(), "{answer:?}"),
        }
    }
    let (_other_dir, other_data) = place();
    let other = Server::start(&other_data);
    create(&other.client(), "t", 1, &[]).await;
    Poller::of(join_of("g", "t")).poll(&other.client()).await;
    assert_eq!(reason(poller.try_poll(&other.client()).await.unwrap_err()), Reason::FieldInvalid);
    // So does a stream.
    let resume = pb::ConsumeJoin { resume_token: good, ..join_of("g", "t") };
    let refused = Member::join_as(&other.client(), resume).await.err().unwrap();
    assert_eq!(reason(refused), Reason::FieldInvalid);
    for wrong in [
        (|request| request.join = None) as fn(&mut pb::PollGroupRequest),
        |request| request.max_records = -1,
        |request| request.max_wait = Some(pbjson_types::Duration { seconds: -1, nanos: 0 }),
        |request| request.join.as_mut().unwrap().commit_mode = pb::CommitMode::Auto.into(),
        |request| request.join.as_mut().unwrap().confirm_revocation = true,
        |request| request.join.as_mut().unwrap().topics = Vec::new(),
        |request| request.token = "x".to_owned(),
    ] {
        let mut request = Poller::of(join_of("g", "t")).request();
        wrong(&mut request);
        assert_eq!(reason(client.groups().poll_group(request).await.unwrap_err()), Reason::FieldInvalid);
    }
    server.assert_no_panic();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_that_poll_share_with_others_and_nothing_that_was_committed_comes_twice() {
    let (_dir, data) = place();
    let server = Server::start(&data);
    let client = server.client();
    create(&client, "t", 4, &[]).await;
    fill(&client, 4, 0, 10).await;
    let mut first = Poller::of(join_of("g", "t"));
    first.read(&client, 40).await;
    // A stream joins: half of the partitions go to it as soon as the other one polls.
    let mut second = Member::join(&client, "g", "t").await;
    while second.owned.len() < 2 {
        first.poll(&client).await;
        second.step().await.unwrap();
    }
    first.poll(&client).await;
    assert_eq!((first.owned, first.revoked), (2, 2));
    fill(&client, 4, 10, 15).await;
    first.read(&client, 50).await;
    second.read_many(10).await;
    assert_eq!(second.count(), 10, "only what is new");
    second.commit_all().await;
    second.leave().await;
    while first.owned < 4 {
        first.poll(&client).await;
    }
    fill(&client, 4, 15, 16).await;
    first.read(&client, 54).await;
    // What is refused is told, and the rest is committed.
    let mut request = first.request();
    request.commits = vec![offset("t", 0, 15), offset("t", 9, 2), offset("missing", 0, 2)];
    let answer = client.groups().poll_group(request).await.unwrap().into_inner();
    assert_eq!(refusals(&answer), ["PARTITION_NOT_FOUND", "TOPIC_NOT_FOUND"]);
    assert_eq!(committed(&client, "g").await[0], Some(15));
    server.assert_no_panic();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_committed_below_the_place_at_which_a_partition_was_assigned() {
    let (_dir, data) = place();
    let server = Server::start(&data);
    let client = server.client();
    create(&client, "t", 1, &[]).await;
    fill(&client, 1, 0, 30).await;
    let mut first = Poller::of(join_of("g", "t"));
    assert_eq!((first.poll(&client).await, first.poll(&client).await), (7, 7));
    let commit = async |poller: &mut Poller, at: i64| {
        let request =
            pb::PollGroupRequest { commit_previous: false, commits: vec![offset("t", 0, at)], ..poller.request() };
        let answer = client.groups().poll_group(request).await.unwrap().into_inner();
        poller.token.clone_from(&answer.token);
        (refusals(&answer), committed(&client, "g").await[0].unwrap())
    };
    // A member may take back what it has committed itself.
    assert_eq!(commit(&mut first, 14).await, (Vec::new(), 14));
    assert_eq!(commit(&mut first, 3).await, (Vec::new(), 3));
    assert_eq!(commit(&mut first, 14).await, (Vec::new(), 14));
    leave(&client, &first.token).await;
    let mut next = Poller::of(join_of("g", "t"));
    assert_eq!(next.poll(&client).await, 7);
    assert_eq!(commit(&mut next, 13).await, (vec!["PARTITION_NOT_OWNED".to_owned()], 14));
    assert_eq!(commit(&mut next, 20).await, (Vec::new(), 20));
    assert_eq!(commit(&mut next, 13).await, (vec!["PARTITION_NOT_OWNED".to_owned()], 20), "also calls later");
    assert_eq!(commit(&mut next, 14).await, (Vec::new(), 14));
    server.assert_no_panic();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_is_never_larger_than_what_the_client_takes() {
    const LIMIT: usize = 8 << 10;
    let (_dir, data) = place();
    let server = Server::start(&data);
    let client = server.client();
    let (few, many) = (format!("few-{}", "x".repeat(200)), format!("many-{}", "x".repeat(200)));
    create(&client, &few, 16, &[]).await;
    create(&client, &many, 40, &[]).await;
    for partition in 0..16 {
        for _ in 0..3 {
            write(&client, &few, partition, "y".repeat(500)).await;
        }
    }
    let options = Some(pb::ReadOptions { max_message_bytes: i32::try_from(LIMIT).unwrap(), ..Default::default() });
    // What a member has is told as a whole or not at all.
    let refused =
        Poller::of(pb::ConsumeJoin { options, ..join_of("many", &many) }).try_poll(&client).await.unwrap_err();
    assert_eq!(reason(refused.clone()), Reason::QuotaExceeded);
    assert!(refused.message().contains("40 partitions") && refused.message().contains("8192 bytes"), "{refused}");
    let mut poller = Poller::of(pb::ConsumeJoin { options, ..join_of("few", &few) });
    let mut count = 0;
    while count < 48 {
        let answer = poller.try_poll(&client).await.unwrap();
        assert!(prost::Message::encoded_len(&answer) <= LIMIT && answer.owned.len() == 16);
        count += poller.take(answer);
    }
    // So are commits that are refused: the call can be made again with fewer.
    let mut request = pb::PollGroupRequest {
        commits: (0..30).map(|number| offset(&few, 100 + number, 1)).collect(),
        ..poller.request()
    };
    let refused = client.groups().poll_group(request.clone()).await.unwrap_err();
    assert_eq!(reason(refused.clone()), Reason::QuotaExceeded);
    assert!(refused.message().contains("30 commits were refused"), "{refused}");
    request.commits.truncate(1);
    let answer = client.groups().poll_group(request).await.unwrap().into_inner();
    assert_eq!(refusals(&answer), ["PARTITION_NOT_FOUND"]);
    assert!(prost::Message::encoded_len(&answer) <= LIMIT);
    server.assert_no_panic();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_starts_at_the_end_misses_nothing_between_two_polls() {
    let (_dir, data) = place();
    let server = Server::start(&data);
    let client = server.client();
    create(&client, "t", 2, &[]).await;
    fill(&client, 2, 0, 5).await;
    let latest = pb::ConsumeJoin { start: Some(bound(pb::Bound::Latest)), ..join_of("g", "t") };
    let mut poller = Poller::of(latest);
    assert_eq!(poller.poll(&client).await, 0);
    fill(&client, 2, 5, 8).await;
    poller.read(&client, 6).await;
    poller.has_all(2, 5, 8);
    server.assert_no_panic();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_read_from_the_end_and_not_committed_is_read_by_the_next_member() {
    let (_dir, data) = place();
    let server = Server::start(&data);
    let client = server.client();
    create(&client, "t", 1, &[]).await;
    fill(&client, 1, 0, 5).await;
    let latest = || Poller::of(pb::ConsumeJoin { start: Some(bound(pb::Bound::Latest)), ..join_of("g", "t") });
    let mut first = latest();
    assert_eq!(first.poll(&client).await, 0);
    fill(&client, 1, 5, 8).await;
    assert_eq!(first.poll(&client).await, 3);
    leave(&client, &first.token).await;
    fill(&client, 1, 8, 9).await;
    let mut next = latest();
    next.read(&client, 4).await;
    next.has_all(1, 5, 9);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_forced_reset_moves_a_member_that_waits_in_a_poll() {
    let (_dir, data) = place();
    let server = Server::start(&data);
    let client = server.client();
    create(&client, "t", 1, &[]).await;
    fill(&client, 1, 0, 5).await;
    let mut poller = Poller::of(join_of("g", "t"));
    assert_eq!(poller.poll(&client).await, 5);
    // It has read everything and committed nothing, and waits for more.
    let max_wait = Some(pbjson_types::Duration { seconds: 30, nanos: 0 });
    let waiting = pb::PollGroupRequest { commit_previous: false, max_wait, ..poller.request() };
    let other = server.client();
    let waiting = tokio::spawn(async move { other.groups().poll_group(waiting).await.unwrap().into_inner() });
    let reset = pb::ResetGroupOffsetsRequest {
        group: "g".to_owned(),
        topics: vec!["t".to_owned()],
        to: Some(pb::reset_group_offsets_request::To::Position(bound(pb::Bound::Earliest))),
        force: true,
        ..Default::default()
    };
    client.groups().reset_group_offsets(reset).await.unwrap();
    poller.take(waiting.await.unwrap());
    poller.read(&client, 10).await;
    assert_eq!(poller.read[&0], [0, 1, 2, 3, 4, 0, 1, 2, 3, 4], "all of it once more");
    assert_eq!(committed(&client, "g").await, [Some(5)]);
    // A commit beyond what was delivered passes over what lies between.
    fill(&client, 1, 5, 30).await;
    assert_eq!(poller.poll(&client).await, 7);
    let request = pb::PollGroupRequest { commits: vec![offset("t", 0, 20)], ..poller.request() };
    let answer = client.groups().poll_group(request).await.unwrap().into_inner();
    assert_eq!(answer.chunks[0].records[0].offset, 20);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_whose_first_poll_is_given_up_goes_at_once() {
    let (_dir, data) = place();
    let server = Server::start(&data);
    let client = server.client();
    create(&client, "t", 1, &[]).await;
    let session_timeout = Some(pbjson_types::Duration { seconds: 60, nanos: 0 });
    let poller = Poller::of(pb::ConsumeJoin { session_timeout, ..join_of("g", "t") });
    let max_wait = Some(pbjson_types::Duration { seconds: 30, nanos: 0 });
    let (other, request) = (server.client(), pb::PollGroupRequest { max_wait, ..poller.request() });
    let call = tokio::spawn(async move { other.groups().poll_group(request).await });
    let members = async || {
        let described = client.groups().get_group(pb::GetGroupRequest { name: "g".to_owned() }).await;
        described.map_or(0, |described| described.into_inner().group.unwrap().member_count)
    };
    until(async || members().await == 1, "it has joined").await;
    call.abort();
    until(async || members().await == 0, "it has gone").await;
}

/// The script in examples/, on which nothing is installed of Walser.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shell_script_reads_a_topic_in_order_through_two_gateways_of_which_one_is_killed() {
    let (_place, dir) = place();
    let up = Up::start(&dir);
    let addresses = [1, 2].map(|gateway| up.address("gateway", gateway, "grpc"));
    let clients = [0, 1].map(|number: usize| Client::new(&addresses[number]).unwrap());
    create_replicated(&clients[0], "t", 1, 2).await;
    fill(&clients[0], 1, 0, 40).await;
    let grpcurl =
        std::env::var("WALSER_GRPCURL").expect("WALSER_GRPCURL names no grpcurl; `scripts/test.sh` installs one");
    let tools = std::path::Path::new(&grpcurl).parent().unwrap().to_owned();
    let path =
        std::env::join_paths(std::iter::once(tools).chain(std::env::split_paths(&std::env::var_os("PATH").unwrap())));
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/poll.sh");
    let mut command = Command::new(script);
    command.args(["g", "t"]).args(&addresses).env("PATH", path.unwrap());
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    let mut read: Vec<String> = lines.by_ref().take(40).collect();
    up.act_ok(&["kill", "gateway", "1"]);
    fill(&clients[1], 1, 40, 60).await;
    read.extend(lines.by_ref().take(20));
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(read, (0..60).map(|number| format!("0-{number}")).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_gateway_takes_the_next_poll_when_one_is_killed() {
    let (_place, dir) = place();
    let up = Up::start(&dir);
    let clients = [1, 2].map(|gateway| Client::new(&up.address("gateway", gateway, "grpc")).unwrap());
    create_replicated(&clients[0], "t", 3, 2).await;
    fill(&clients[0], 3, 0, 30).await;
    let mut poller = Poller::of(join_of("g", "t"));
    for round in 0.. {
        if poller.read.values().map(Vec::len).sum::<usize>() >= 45 {
            break;
        }
        poller.poll(&clients[round % 2]).await;
    }
    up.act_ok(&["kill", "gateway", "1"]);
    assert!(poller.try_poll(&clients[0]).await.is_err());
    poller.read(&clients[1], 90).await;
    poller.has_all(3, 0, 30);
    assert_eq!(committed(&clients[1], "g").await, [Some(30); 3]);
}
