//! The controller's metadata as its followers take it: one committed group of messages at a time.

use tonic::Streaming;
use walser_proto::internal::v1::controller_service_client::ControllerServiceClient;
use walser_proto::internal::v1::{WatchMetadataRequest, WatchMetadataResponse};

use crate::{Connection, Failure, Reason};

/// Largest message in bytes: all partitions of one change.
const MESSAGE_BYTES_MAX: usize = 64 << 20;

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
    cluster_id: String,
    applied_version: i64,
    /// Met behind groups that were returned; it ends the stream.
    failed: Option<Failure>,
}

impl MetadataStream {
    /// Opens the stream; it starts with a snapshot.
    ///
    /// # Errors
    /// `CLUSTER_ID_MISMATCH` and `METADATA_ROLLBACK` when the controller's metadata is not that of the caller; when the
    /// controller refuses for another reason, or cannot be reached.
    pub async fn open(controller: &Connection, seen: MetadataSeen) -> Result<Self, Failure> {
        let client = ControllerServiceClient::new(controller.clone());
        let mut client = client.max_decoding_message_size(MESSAGE_BYTES_MAX);
        let MetadataSeen { cluster_id, version: applied_version, lineage } = seen;
        let request =
            WatchMetadataRequest { resume_version: 0, cluster_id: cluster_id.clone(), applied_version, lineage };
        let messages = client.watch_metadata(request).await?.into_inner();
        Ok(Self { messages, group: Vec::new(), cluster_id, applied_version, failed: None })
    }

    /// Messages up to the next one that commits, that one included: they take effect together. Dropping the future
    /// loses nothing.
    ///
    /// # Errors
    /// When the stream failed or ended, with messages that were not committed dropped; and as for
    /// [`MetadataStream::open`].
    pub async fn next_commit(&mut self) -> Result<Vec<WatchMetadataResponse>, Failure> {
        if let Some(failure) = self.failed.take() {
            return Err(failure);
        }
        while let Some(message) = self.messages.message().await? {
            self.check(&message)?;
            let commit = message.commit;
            self.group.push(message);
            if commit {
                return Ok(std::mem::take(&mut self.group));
            }
        }
        Err(Failure::new(Reason::ControllerNotAvailable, "the controller closed the metadata stream"))
    }

    /// The next group, and those behind it that have arrived, at most `groups_max`.
    ///
    /// # Errors
    /// As for [`MetadataStream::next_commit`]; groups before the failure are returned first.
    pub async fn next_commits(&mut self, groups_max: usize) -> Result<Vec<Vec<WatchMetadataResponse>>, Failure> {
        let mut groups = vec![self.next_commit().await?];
        while groups.len() < groups_max {
            tokio::select! {
                biased;
                group = self.next_commit() => match group {
                    Ok(group) => groups.push(group),
                    Err(failure) => {
                        self.failed = Some(failure);
                        break;
                    }
                },
                () = std::future::ready(()) => break,
            }
        }
        Ok(groups)
    }

    /// Whether a message is of this cluster and not older than what was applied: whatever the controller checked.
    fn check(&self, message: &WatchMetadataResponse) -> Result<(), Failure> {
        let other = !self.cluster_id.is_empty() && !message.cluster_id.is_empty();
        if other && message.cluster_id != self.cluster_id {
            return Err(Failure::cluster_id_mismatch(&self.cluster_id, &message.cluster_id));
        }
        if message.version < self.applied_version {
            return Err(Failure::metadata_rollback(self.applied_version, message.version));
        }
        Ok(())
    }
}
