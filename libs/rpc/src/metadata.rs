//! The controller's metadata as its followers take it: one delta at a time.

mod wire;

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;
use tonic::Streaming;
use walser_metadata::Delta;
use walser_proto::internal::v1::{WatchMetadataRequest, WatchMetadataResponse};

use crate::{ApiError, ControllerClient, FEATURE_LEVELS, Reason};

pub(crate) use wire::millis;
pub use wire::{
    change_messages, progress_message, snapshot_messages, wire_registration, wire_time, wire_topic, wire_topic_value,
};

/// Largest message in bytes: all partitions of one change.
const MESSAGE_BYTES_MAX: usize = 64 << 20;

/// A controller that says nothing for so long is not asked any more: it sends something every 200 ms.
const SILENCE_MAX: Duration = Duration::from_secs(1);
/// The first message may have to be read from a store, and is large.
const FIRST_MAX: Duration = Duration::from_secs(15);

/// How long a controller may take to begin to answer, when there are others. It doubles each time that one does not, up to
/// `FIRST_MAX`: perhaps all of them are slow.
const OPEN_MIN: Duration = Duration::from_secs(1);

/// How long a controller is followed that does not reach the metadata store, when there are others.
const CUT_OFF_MIN: Duration = Duration::from_secs(1);
/// The same when none of those that were tried did.
const CUT_OFF_MAX: Duration = Duration::from_secs(30);

/// How long a controller is followed that does not reach the metadata store, and waited for that does not answer: for ever,
/// and for `FIRST_MAX`, where it is the only one; else longer each time, as perhaps none of them does, until one does.
/// Clones share it.
#[derive(Debug, Clone)]
pub struct CutOffPatience {
    others: bool,
    limit: Arc<Mutex<Duration>>,
    open: Arc<Mutex<Duration>>,
}

impl CutOffPatience {
    /// For a follower of so many controllers.
    pub fn of(controllers: usize) -> Self {
        let others = controllers > 1;
        let open = if others { OPEN_MIN } else { FIRST_MAX };
        Self { others, limit: Arc::new(Mutex::new(CUT_OFF_MIN)), open: Arc::new(Mutex::new(open)) }
    }

    /// Whether a controller is given up that has been cut off for so long.
    fn is_over(&self, cut_off: Duration) -> bool {
        let mut limit = self.limit.lock();
        let over = self.others && cut_off >= *limit;
        if over {
            *limit = (*limit * 2).min(CUT_OFF_MAX);
        }
        over
    }

    /// Waits for a controller to begin to answer.
    async fn answer<T>(&self, call: impl Future<Output = T>) -> Result<T, ApiError> {
        let limit = *self.open.lock();
        let answer = tokio::time::timeout(limit, call).await;
        let next = match &answer {
            Ok(_) if self.others => OPEN_MIN,
            Ok(_) => limit,
            Err(_) => (2 * limit).min(FIRST_MAX),
        };
        *self.open.lock() = next;
        answer.map_err(|_elapsed| {
            let text = format!("the controller has not begun to send metadata within {} s", limit.as_secs());
            ApiError::new(Reason::ControllerNotAvailable, text)
        })
    }

    /// A controller reaches the store.
    fn restore(&self) {
        *self.limit.lock() = CUT_OFF_MIN;
    }
}

/// What a caller has seen of the metadata.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MetadataSeen {
    /// Its cluster; empty when it knows none.
    pub cluster_id: String,
    /// The highest version that it has applied.
    pub version: i64,
    /// The lineage of that version; empty when it knows none.
    pub lineage: String,
}

/// An open `WatchMetadata` stream.
#[derive(Debug)]
pub struct MetadataStream {
    messages: Streaming<WatchMetadataResponse>,
    /// Of a group that has not been committed.
    group: Vec<WatchMetadataResponse>,
    /// What was applied when the stream was opened, or returned since.
    seen: MetadataSeen,
    /// Something has come.
    heard: bool,
    patience: CutOffPatience,
    /// Since when the controller does not reach the metadata store.
    cut_off: Option<Instant>,
    /// Met behind deltas that were returned; it ends the stream.
    failed: Option<ApiError>,
}

impl MetadataStream {
    /// Opens the stream; it starts with a snapshot.
    ///
    /// # Errors
    /// `CONTROLLER_NOT_AVAILABLE` when the controller does not begin to answer, within 1 s where there are others;
    /// `CLUSTER_ID_MISMATCH` and `METADATA_ROLLBACK` when the controller's metadata is not that of the caller; when the
    /// controller refuses for another reason, or cannot be reached.
    pub async fn open(
        controller: &ControllerClient,
        seen: MetadataSeen,
        patience: &CutOffPatience,
    ) -> Result<Self, ApiError> {
        let mut client = controller.calls().max_decoding_message_size(MESSAGE_BYTES_MAX);
        let MetadataSeen { cluster_id, version: applied_version, lineage } = seen.clone();
        let features = Some(FEATURE_LEVELS.into());
        let request = WatchMetadataRequest { resume_version: 0, cluster_id, applied_version, lineage, features };
        let messages = patience.answer(client.watch_metadata(request)).await??.into_inner();
        let (group, patience) = (Vec::new(), patience.clone());
        Ok(Self { messages, group, seen, heard: false, patience, cut_off: None, failed: None })
    }

    /// What the caller has seen once it has applied every delta that was returned.
    pub fn seen(&self) -> &MetadataSeen {
        &self.seen
    }

    /// The next delta: everything up to the next message that commits. Dropping the future loses nothing.
    ///
    /// # Errors
    /// When the stream failed, ended or fell silent, with messages that were not committed dropped; and as for
    /// [`MetadataStream::open`].
    pub async fn next_delta(&mut self) -> Result<Delta, ApiError> {
        if let Some(failure) = self.failed.take() {
            return Err(failure);
        }
        while let Some(message) = self.next_message().await? {
            self.check(&message)?;
            if self.group.is_empty() && wire::is_progress(&message) && message.version <= self.seen.version {
                continue;
            }
            let commit = message.commit.then(|| (message.cluster_id.clone(), message.lineage.clone()));
            self.group.push(message);
            if let Some((cluster_id, lineage)) = commit {
                let delta = wire::delta(std::mem::take(&mut self.group));
                self.seen = MetadataSeen { cluster_id, version: self.seen.version.max(delta.version), lineage };
                return Ok(delta);
            }
        }
        Err(ApiError::new(Reason::ControllerNotAvailable, "the controller closed the metadata stream"))
    }

    async fn next_message(&mut self) -> Result<Option<WatchMetadataResponse>, ApiError> {
        let limit = if self.heard { SILENCE_MAX } else { FIRST_MAX };
        let message = tokio::time::timeout(limit, self.messages.message()).await.map_err(|_elapsed| {
            let text = format!("the controller has sent no metadata for {} s", limit.as_secs());
            ApiError::new(Reason::ControllerNotAvailable, text)
        })??;
        self.heard = true;
        match &message {
            Some(message) if message.cut_off => {
                let since = *self.cut_off.get_or_insert_with(Instant::now);
                if self.patience.is_over(since.elapsed()) {
                    let text = "the controller does not reach the metadata store, and another one may";
                    return Err(ApiError::new(Reason::ControllerNotAvailable, text));
                }
            }
            Some(_) => {
                self.cut_off = None;
                self.patience.restore();
            }
            None => {}
        }
        Ok(message)
    }

    /// The next delta, and those behind it that have arrived, at most `deltas_max`.
    ///
    /// # Errors
    /// As for [`MetadataStream::next_delta`]; deltas before the failure are returned first.
    pub async fn next_deltas(&mut self, deltas_max: usize) -> Result<Vec<Delta>, ApiError> {
        let mut deltas = vec![self.next_delta().await?];
        while deltas.len() < deltas_max {
            tokio::select! {
                biased;
                delta = self.next_delta() => match delta {
                    Ok(delta) => deltas.push(delta),
                    Err(failure) => {
                        self.failed = Some(failure);
                        break;
                    }
                },
                () = std::future::ready(()) => break,
            }
        }
        Ok(deltas)
    }

    /// Whether a message is of this cluster and not older than what was applied: whatever the controller checked.
    fn check(&self, message: &WatchMetadataResponse) -> Result<(), ApiError> {
        let seen = &self.seen;
        let other = !seen.cluster_id.is_empty() && !message.cluster_id.is_empty();
        if other && message.cluster_id != seen.cluster_id {
            return Err(ApiError::cluster_id_mismatch(&seen.cluster_id, &message.cluster_id));
        }
        if message.version < seen.version {
            return Err(ApiError::metadata_rollback(seen.version, message.version));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use tonic::body::Body;
    use tower::util::BoxCloneSyncService;

    use super::*;
    use crate::network::ConnectionError;

    type Answer = Result<http::Response<Body>, ConnectionError>;

    /// One whose process is frozen: its listener takes connections all the same.
    fn silent() -> ControllerClient {
        let never = |_: http::Request<Body>| pending::<Answer>();
        ControllerClient::new(BoxCloneSyncService::new(tower::service_fn(never)))
    }

    /// One that answers without a message.
    fn answering() -> ControllerClient {
        let answer = |_: http::Request<Body>| ready(Answer::Ok(http::Response::new(Body::empty())));
        ControllerClient::new(BoxCloneSyncService::new(tower::service_fn(answer)))
    }

    #[tokio::test(start_paused = true)]
    async fn a_controller_that_does_not_answer_is_left_after_a_second_where_there_are_others() {
        let opened = async |controller: &ControllerClient, patience: &CutOffPatience| {
            let begun = Instant::now();
            let failure = MetadataStream::open(controller, MetadataSeen::default(), patience).await.err();
            (failure.map(|failure| failure.reason()), begun.elapsed().as_secs())
        };
        let gone = Some(Reason::ControllerNotAvailable);
        let patience = CutOffPatience::of(3);
        assert_eq!(opened(&silent(), &patience).await, (gone, 1));
        assert_eq!(opened(&silent(), &patience).await, (gone, 2), "perhaps all of them are slow");
        for _ in 0..5 {
            opened(&silent(), &patience).await;
        }
        assert_eq!(opened(&silent(), &patience).await, (gone, FIRST_MAX.as_secs()));
        assert_eq!(opened(&answering(), &patience).await, (None, 0));
        assert_eq!(opened(&silent(), &patience).await, (gone, 1));
        assert_eq!(opened(&silent(), &CutOffPatience::of(1)).await, (gone, FIRST_MAX.as_secs()));
    }
}
