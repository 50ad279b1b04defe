//! Prints `partition offset value [traceparent]` of what a member gets, and commits it: consumer GROUP TOPIC

use std::cell::RefCell;

use client::v1::consume_request::Message;
use client::v1::consume_response::Event;
use client::v1::group_service_client::GroupServiceClient;
use client::v1::{ConsumeCommit, ConsumeJoin, ConsumeRequest, OffsetCommit, RecordChunk, TopicPartition};
use client::{Client, continued, stopping};
use tokio::sync::mpsc::unbounded_channel;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::transport::Channel;

#[tokio::main]
async fn main() {
    let [_, group, topic] = std::env::args().collect::<Vec<_>>().try_into().expect("a group and a topic");
    let join = RefCell::new(ConsumeJoin { group, topics: vec![topic], ..Default::default() });
    let stopping = stopping();
    let consume = async |channel: Channel| {
        let ((requests, sent), mut stopping) = (unbounded_channel(), stopping.clone());
        if *stopping.borrow() {
            return Ok(());
        }
        let _ = requests.send(ConsumeRequest { message: Some(Message::Join(join.borrow().clone())) });
        let (mut requests, sent) = (Some(requests), UnboundedReceiverStream::new(sent));
        let mut stream = GroupServiceClient::new(channel).consume(sent).await?.into_inner();
        loop {
            let response = tokio::select! {
                response = stream.message() => response?,
                _ = stopping.changed(), if requests.is_some() => {
                    requests = None; // Nothing more to say: the member leaves, and its stream ends.
                    continue;
                }
            };
            let Some(response) = response else { return Ok(()) };
            match (response.event, &requests) {
                // With it the member keeps its partitions.
                (Some(Event::Joined(joined)), _) => join.borrow_mut().resume_token = joined.resume_token,
                // What is not processed is read by whoever is next.
                (Some(Event::Records(chunk)), Some(requests)) => drop(requests.send(process(chunk))),
                // Such as a commit of a partition that has moved.
                (Some(Event::PartitionError(failed)), _) => eprintln!("{}", failed.error.unwrap_or_default().message),
                _ => {}
            }
        }
    };
    let forget = || join.borrow_mut().resume_token.clear(); // It is of no use any more: join as a new member.
    Client::new().retry(consume, Some(&forget)).await;
}

fn process(chunk: RecordChunk) -> ConsumeRequest {
    for record in &chunk.records {
        let value = String::from_utf8_lossy(record.value());
        println!("{} {} {value}{}", chunk.partition, record.offset, continued(&record.headers));
    }
    let place = TopicPartition { topic: chunk.topic, partition: chunk.partition };
    let (offset, leader_epoch) = (chunk.next_offset, Some(chunk.leader_epoch));
    let done = OffsetCommit { topic_partition: Some(place), offset, leader_epoch, ..Default::default() };
    ConsumeRequest { message: Some(Message::Commit(ConsumeCommit { offsets: vec![done], commit_id: 0 })) }
}
