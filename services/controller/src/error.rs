//! Errors of the controller.

use walser_metastore::StoreError;
use walser_rpc::{ApiError, Reason};

/// Why a controller cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The metadata store did not answer.
    #[error("metadata store: {0}")]
    Store(#[from] StoreError),
    /// What is stored is not metadata of this version.
    #[error("metadata: {0}")]
    Metadata(#[from] ApiError),
}

/// A store that does not answer, as callers see it.
pub(crate) fn store_failure(error: StoreError) -> ApiError {
    match error {
        StoreError::Unavailable(_) | StoreError::Compacted { .. } => {
            ApiError::new(Reason::MetadataStoreUnavailable, error.to_string())
        }
        StoreError::Unknown(_) => ApiError::new(Reason::RequestTimedOut, error.to_string()).with("stage", "metadata"),
        StoreError::Invalid(_) | StoreError::TooLarge { .. } | StoreError::NoLease(_) | StoreError::Format(_) => {
            ApiError::internal(error.to_string())
        }
    }
}
