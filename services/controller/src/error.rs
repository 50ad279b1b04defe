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
        StoreError::Unknown(_) | StoreError::TakesNoWrites(_) => {
            ApiError::new(Reason::RequestTimedOut, error.to_string()).with("stage", "metadata")
        }
        StoreError::Invalid(_) | StoreError::TooLarge { .. } | StoreError::NoLease(_) | StoreError::Format(_) => {
            ApiError::internal(error.to_string())
        }
    }
}

#[cfg(test)]
mod tests {
    use walser_rpc::Effect;

    use super::*;

    #[test]
    fn a_write_to_a_store_that_is_full_may_have_happened() {
        let full = store_failure(StoreError::TakesNoWrites("its quota is used up".to_owned()));
        assert_eq!((full.reason(), full.effect()), (Reason::RequestTimedOut, Effect::Maybe), "{full}");
        assert!(full.message().contains("its quota is used up"), "{full}");
        let away = store_failure(StoreError::Unavailable("no member answers".to_owned()));
        assert_eq!(away.effect(), Effect::None);
    }
}
