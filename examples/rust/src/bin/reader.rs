//! Prints `offset value` of every record of a topic, up to its end: reader TOPIC [--follow]

use std::cell::RefCell;
use std::collections::HashMap;

use client::Client;
use client::v1::consumer_service_client::ConsumerServiceClient;
use client::v1::read_response::Event;
use client::v1::{Bound, OutOfRangePolicy, PartitionResume, Position, ReadOptions, ReadRequest, ReadTarget, position};
use tonic::transport::Channel;

#[tokio::main]
async fn main() {
    let mut target = ReadTarget { topic: std::env::args().nth(1).expect("a topic"), ..Default::default() };
    if !std::env::args().any(|argument| argument == "--follow") {
        target.end = Some(Position { at: Some(position::At::Bound(Bound::Latest.into())) });
    }
    let options = ReadOptions { out_of_range: OutOfRangePolicy::Earliest.into(), ..Default::default() };
    let resume = RefCell::new(HashMap::new()); // By partition. Store it to resume in another process.
    let read = async |channel: Channel| {
        let target = ReadTarget { resume: resume.borrow().values().copied().collect(), ..target.clone() };
        let request = ReadRequest { targets: vec![target], options: Some(options), max_records: 0 };
        let mut stream = ConsumerServiceClient::new(channel).read(request).await?.into_inner();
        while let Some(response) = stream.message().await? {
            take(response.event, &mut resume.borrow_mut());
        }
        Ok(())
    };
    Client::new().retry(read, None).await; // Returns when everything that was asked for has been read.
}

fn take(event: Option<Event>, resume: &mut HashMap<i32, PartitionResume>) {
    match event {
        Some(Event::Chunk(chunk)) => {
            for record in &chunk.records {
                println!("{} {}", record.offset, String::from_utf8_lossy(record.value()));
            }
            let place = PartitionResume {
                partition: chunk.partition,
                next_offset: chunk.next_offset,
                leader_epoch: Some(chunk.leader_epoch),
            };
            resume.insert(chunk.partition, place);
        }
        Some(Event::OffsetReset(reset)) => eprintln!("{} records are gone", reset.skipped_count),
        // The server continues with the other partitions.
        Some(Event::PartitionError(failed)) => eprintln!("{}", failed.error.unwrap_or_default().message),
        // The stream ends next, with the advice to reopen it.
        Some(Event::Drain(_)) => eprintln!("the server is stopping"),
        _ => {}
    }
}
