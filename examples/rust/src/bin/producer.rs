//! Writes every line of standard input to a topic, exactly once: producer TOPIC [--keyed]
//!
//! With --keyed a line is KEY:VALUE, and its key says to which partition it goes; else it goes to partition 0.

use std::collections::HashMap;

use client::v1::producer_service_client::ProducerServiceClient;
use client::v1::topic_service_client::TopicServiceClient;
use client::v1::{GetTopicRequest, ProduceRequest, Record};
use client::{Client, partition, traced};

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let topic = std::env::args().nth(1).expect("a topic");
    let keyed = std::env::args().any(|argument| argument == "--keyed");
    let mut client = Client::new();
    let mut count = 1;
    if keyed {
        let get = async |channel| {
            let request = traced(GetTopicRequest { name: topic.clone() });
            TopicServiceClient::new(channel).get_topic(request).await
        };
        count = client.retry(get, None).await.and_then(|found| found.into_inner().topic).unwrap().partition_count;
    }
    let init = async |channel| ProducerServiceClient::new(channel).init_producer(traced(Default::default())).await;
    let producer = client.retry(init, None).await.and_then(|session| session.into_inner().producer);
    let mut requests = HashMap::new(); // The next request of each partition.
    for line in std::io::stdin().lines() {
        let line = line?;
        let (key, value) = match line.split_once(':') {
            Some((key, value)) if keyed => (Some(key.into()), value),
            _ => (None, &*line),
        };
        let record = Record { value: Some(value.into()), key, ..Default::default() };
        let number = partition(record.key(), count);
        let first = ProduceRequest { topic: topic.clone(), partition: Some(number), producer, ..Default::default() };
        let request = requests.entry(number).or_insert(first);
        request.records.push(record);
        if request.records.len() == 100 {
            write(&mut client, request).await;
        }
    }
    for request in requests.values_mut().filter(|request| !request.records.is_empty()) {
        write(&mut client, request).await;
    }
    println!("{} records written", requests.values().map(|request| request.base_sequence).sum::<i32>());
    Ok(())
}

async fn write(client: &mut Client, request: &mut ProduceRequest) {
    let produce = async |channel| ProducerServiceClient::new(channel).produce(traced(request.clone())).await;
    client.retry(produce, None).await;
    request.base_sequence += request.records.len() as i32;
    request.records.clear();
}
