//! The group coordinator of `walser up`, as far as clients meet it.

use walser_proto::v1 as pb;
use walser_rpc::{ApiError, GROUPS_TOPIC, Reason};

use crate::server::{Server, create, place};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_whose_groups_nobody_needs_makes_no_topic_and_keeps_its_names() {
    let (_dir, data) = place();
    let mut server = Server::start(&data);
    for _ in 0..2 {
        let client = server.client();
        let reason = |status: tonic::Status| ApiError::from(status).reason();
        let record = pb::Record { value: Some("x".into()), ..Default::default() };
        let write = pb::ProduceRequest { topic: GROUPS_TOPIC.to_owned(), records: vec![record], ..Default::default() };
        assert_eq!(reason(client.producer().produce(write).await.unwrap_err()), Reason::TopicNameInvalid);
        let before = Some(pb::Position { at: Some(pb::position::At::Offset(1)) });
        let cut = pb::TruncateTopicRequest { topic: GROUPS_TOPIC.to_owned(), before, ..Default::default() };
        assert_eq!(reason(client.topics().truncate_topic(cut).await.unwrap_err()), Reason::TopicNameInvalid);
        let delete = pb::DeleteTopicRequest { name: GROUPS_TOPIC.to_owned(), ..Default::default() };
        assert_eq!(reason(client.topics().delete_topic(delete).await.unwrap_err()), Reason::TopicNameInvalid);
        let all = pb::ListTopicsRequest { include_internal: true, ..Default::default() };
        assert_eq!(client.topics().list_topics(all).await.unwrap().into_inner().topics, []);
        drop(client);
        let printed = server.stop();
        assert!(!printed.contains("WARN") && !printed.contains("ERROR"), "{printed}");
        server = Server::start(&data);
    }
    create(&server.client(), "t", 1, &[]).await;
    server.stop();
}
