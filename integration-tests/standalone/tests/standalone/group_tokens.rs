//! What becomes of a stream when the token of its member is used elsewhere, and of a token whose stream breaks, from outside.

use walser_client::Client;
use walser_proto::v1 as pb;
use walser_rpc::{ApiError, Reason};

use crate::cluster_up::Up;
use crate::group_member::{Member, join_of};
use crate::replicated::create_replicated;
use crate::server::{PATIENCE, Server, create, place, write};

fn with_token(token: &str) -> pb::ConsumeJoin {
    pb::ConsumeJoin { resume_token: token.to_owned(), ..join_of("g", "t") }
}

/// A member that has read everything, which is nothing: it has no reason to ask the coordinator for anything.
async fn idle(client: &Client) -> Member {
    let mut member = Member::join(client, "g", "t").await;
    member.own(1).await;
    member.until(|member| member.caught_up > 0).await;
    member
}

/// A stream for a token, once the server knows that the one before is gone: it hears of that a moment after its client.
async fn reopened(client: &Client, token: &str) -> Member {
    for _ in 0..10 {
        match Member::join_as(client, with_token(token)).await {
            Ok(member) => return member,
            Err(refused) => assert_eq!(ApiError::from(refused).reason(), Reason::MemberFenced),
        }
    }
    panic!("the token is refused for good, or for long");
}

/// The stream of a member ends, and has read nothing more.
async fn is_fenced(mut member: Member) {
    let failure = tokio::time::timeout(PATIENCE, member.fails()).await.expect("it reads on");
    assert_eq!(ApiError::from(failure).reason(), Reason::MemberFenced);
    assert_eq!(member.revoked[0].cause(), pb::RevocationCause::Fenced);
    assert_eq!(member.count(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_stream_ends_when_its_member_leaves_or_polls_by_its_token() {
    let (_dir, data) = place();
    let server = Server::start(&data);
    let client = server.client();
    create(&client, "t", 1, &[]).await;
    let member = idle(&client).await;
    client.groups().leave_group(pb::LeaveGroupRequest { token: member.token.clone() }).await.unwrap();
    is_fenced(member).await;
    let member = idle(&client).await;
    let poll =
        pb::PollGroupRequest { token: member.token.clone(), join: Some(join_of("g", "t")), ..Default::default() };
    let polled = client.groups().poll_group(poll).await.unwrap().into_inner();
    assert_eq!((&polled.member_id, polled.owned.len()), (&member.id, 1));
    is_fenced(member).await;
    assert_eq!(write(&client, "t", 0, "later".to_owned()).await, 0);
    server.assert_no_panic();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_stream_ends_when_its_token_is_used_at_another_gateway() {
    let (_place, dir) = place();
    let up = Up::start(&dir);
    let clients = [1, 2].map(|gateway| Client::new(&up.address("gateway", gateway, "grpc")).unwrap());
    create_replicated(&clients[0], "t", 1, 2).await;
    let member = idle(&clients[0]).await;
    let mut newer = Member::join_as(&clients[1], with_token(&member.token)).await.unwrap();
    assert_eq!(newer.id, member.id);
    is_fenced(member).await;
    newer.own(1).await;
    assert_eq!(write(&clients[1], "t", 0, "later".to_owned()).await, 0);
    newer.read_many(1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_is_good_again_when_the_stream_that_was_opened_with_it_breaks_unread() {
    let (_dir, data) = place();
    let server = Server::start(&data);
    let client = server.client();
    create(&client, "t", 1, &[]).await;
    let member = idle(&client).await;
    let (id, token) = (member.id.clone(), member.token.clone());
    drop(member);
    for _ in 0..5 {
        // The server has used the token that it gives; the client has not read it, and goes on with the one that it has.
        let mut unread = reopened(&client, &token).await;
        assert_eq!(unread.id, id, "it is the member that it was");
        unread.own(1).await;
    }
    server.assert_no_panic();
}
