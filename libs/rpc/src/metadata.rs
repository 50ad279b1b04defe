//! The controller's metadata as its followers take it: one committed group of messages at a time.

use tonic::Streaming;
use walser_proto::internal::v1::controller_service_client::ControllerServiceClient;
use walser_proto::internal::v1::{WatchMetadataRequest, WatchMetadataResponse};

use crate::{Connection, Failure, Reason};

/// An open `WatchMetadata` stream.
#[derive(Debug)]
pub struct MetadataStream {
    messages: Streaming<WatchMetadataResponse>,
}

impl MetadataStream {
    /// Opens the stream; it starts with a snapshot.
    ///
    /// # Errors
    /// When the controller refuses, or cannot be reached.
    pub async fn open(controller: &Connection) -> Result<Self, Failure> {
        let mut client = ControllerServiceClient::new(controller.clone());
        let messages = client.watch_metadata(WatchMetadataRequest::default()).await?.into_inner();
        Ok(Self { messages })
    }

    /// Messages up to the next one that commits, that one included: they take effect together.
    ///
    /// # Errors
    /// When the stream failed or ended. Messages that were not committed are dropped.
    pub async fn next_commit(&mut self) -> Result<Vec<WatchMetadataResponse>, Failure> {
        let mut group = Vec::new();
        while let Some(message) = self.messages.message().await? {
            let commit = message.commit;
            group.push(message);
            if commit {
                return Ok(group);
            }
        }
        Err(Failure::new(Reason::ControllerNotAvailable, "the controller closed the metadata stream"))
    }
}
