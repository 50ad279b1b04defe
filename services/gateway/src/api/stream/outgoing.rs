//! What a stream sends to its client: neighbouring results in one message.

use tokio::sync::OwnedSemaphorePermit;
use tonic::Status;
use walser_proto::v1 as pb;
use walser_proto::v1::produce_result;
use walser_proto::v1::produce_stream_response::Message as Reply;

/// Results in one answer.
pub(super) const GROUP_MAX: usize = 256;
/// Positions and appends in one answer, above which no further result is put into it: clients bound the items of a
/// message ([`walser_proto::bounds::ANSWER_ITEMS_MAX`]).
const GROUP_ITEMS: usize = 100_000;

/// What is sent to the client, in order.
pub(super) enum Outgoing {
    /// With the room of its batch, which is free once the result leaves.
    Result(pb::ProduceResult, Option<OwnedSemaphorePermit>),
    Other(Reply),
    End(Status),
}

/// A message to the client, and the room of the batches that it answers.
pub(super) struct Leaving {
    pub(super) message: Result<pb::ProduceStreamResponse, Status>,
    _rooms: Vec<OwnedSemaphorePermit>,
}

/// Puts neighbouring results into one message.
pub(super) fn grouped(group: Vec<Outgoing>) -> Vec<Leaving> {
    let mut messages = Vec::new();
    let (mut results, mut rooms, mut items) = (Vec::new(), Vec::new(), 0);
    for item in group {
        let other = match item {
            Outgoing::Result(result, room) => {
                items += items_of(&result);
                results.push(result);
                rooms.extend(room);
                if items < GROUP_ITEMS {
                    continue;
                }
                None
            }
            Outgoing::Other(reply) => Some(Ok(pb::ProduceStreamResponse { message: Some(reply) })),
            Outgoing::End(status) => Some(Err(status)),
        };
        items = 0;
        messages.extend(results_message(&mut results, &mut rooms));
        messages.extend(other.map(|message| Leaving { message, _rooms: Vec::new() }));
    }
    messages.extend(results_message(&mut results, &mut rooms));
    messages
}

/// Results in one message, if there are any.
fn results_message(results: &mut Vec<pb::ProduceResult>, rooms: &mut Vec<OwnedSemaphorePermit>) -> Option<Leaving> {
    if results.is_empty() {
        return None;
    }
    let (results, rooms) = (std::mem::take(results), std::mem::take(rooms));
    let message = Some(Reply::Results(pb::ProduceResults { results }));
    Some(Leaving { message: Ok(pb::ProduceStreamResponse { message }), _rooms: rooms })
}

/// Repeated items of a result, about.
fn items_of(result: &pb::ProduceResult) -> usize {
    match &result.outcome {
        Some(produce_result::Outcome::Written(written)) => 1 + written.positions.len() + written.appends.len(),
        _ => 1 + result.failure.as_ref().map_or(0, |detail| prost::Message::encoded_len(detail) / 16),
    }
}

#[cfg(test)]
mod tests {
    use walser_proto::bounds;

    use super::*;

    #[test]
    fn results_of_large_writes_are_not_put_into_one_message() {
        let large = |correlation_id| {
            let positions = vec![pb::RecordPosition { partition: 0, offset: 7 }; bounds::ITEMS_MAX];
            let written = pb::ProduceResponse { positions, appends: vec![pb::AppendResult::default(); 100] };
            let outcome = Some(produce_result::Outcome::Written(written));
            Outgoing::Result(pb::ProduceResult { correlation_id, outcome, failure: None }, None)
        };
        let small = |correlation_id| Outgoing::Result(pb::ProduceResult { correlation_id, ..Default::default() }, None);
        let messages = grouped(vec![small(1), small(2), large(3), large(4), large(5), small(6)]);
        assert_eq!(messages.len(), 4);
        let mut order = Vec::new();
        for message in messages.into_iter().map(|leaving| leaving.message.unwrap()) {
            let encoded = prost::Message::encode_to_vec(&message);
            assert_eq!(bounds::check::<pb::ProduceStreamResponse>(&encoded), Ok(()));
            let Some(Reply::Results(results)) = message.message else { panic!("results") };
            order.extend(results.results.iter().map(|result| result.correlation_id));
        }
        assert_eq!(order, [1, 2, 3, 4, 5, 6]);
    }
}
