//! What etcd has of a store: below its prefix all keys under `KEYS`, and at `REVISION_BASE` what [`Revisions`] says.

use std::sync::Arc;

use bytes::Bytes;
use parking_lot::RwLock;

use super::revisions::Revisions;
use crate::{KeyValue, StoreError};

const KEYS: &str = "keys/";
const REVISION_BASE: &str = "revision-base";

/// Names in etcd, and what its revisions are called.
#[derive(Debug)]
pub(super) struct Keys {
    /// Ends with a slash.
    prefix: String,
    /// The latest that was seen.
    revisions: RwLock<Arc<Revisions>>,
}

impl Keys {
    pub(super) fn new(prefix: &str) -> Self {
        let slash = if prefix.ends_with('/') { "" } else { "/" };
        Self { prefix: format!("{prefix}{slash}"), revisions: RwLock::default() }
    }

    /// The prefix of all of it.
    pub(super) fn prefix(&self) -> &str {
        &self.prefix
    }

    /// A key, or the prefix of keys, as etcd has it.
    pub(super) fn stored(&self, key: &str) -> String {
        format!("{}{KEYS}{key}", self.prefix)
    }

    /// The key that says what is added to revisions.
    pub(super) fn revision_base(&self) -> String {
        format!("{}{REVISION_BASE}", self.prefix)
    }

    pub(super) fn revisions(&self) -> Arc<Revisions> {
        Arc::clone(&self.revisions.read())
    }

    /// Takes what is added to revisions, if this says it. False: it is another key.
    pub(super) fn note(&self, kv: &etcd_client::KeyValue) -> Result<bool, StoreError> {
        if kv.key() != self.revision_base().as_bytes() {
            return Ok(false);
        }
        // Whatever was read later has all of it.
        let read = Revisions::decode(kv.value(), kv.mod_revision())?;
        let mut known = self.revisions.write();
        if known.len() < read.len() {
            *known = Arc::new(read);
        }
        Ok(true)
    }

    /// A key with what is known of it.
    pub(super) fn entry(&self, kv: &etcd_client::KeyValue) -> Result<KeyValue, StoreError> {
        let key = std::str::from_utf8(kv.key()).ok().and_then(|key| key.strip_prefix(&self.prefix)?.strip_prefix(KEYS));
        let key = key.ok_or_else(|| {
            StoreError::Format(format!("the key {} is not one of this store", String::from_utf8_lossy(kv.key())))
        })?;
        let revisions = self.revisions();
        Ok(KeyValue {
            key: key.to_owned(),
            value: Bytes::copy_from_slice(kv.value()),
            create_revision: revisions.of(kv.create_revision()),
            mod_revision: revisions.of(kv.mod_revision()),
            lease: kv.lease(),
        })
    }
}

/// The end of the range of keys with a prefix. Exclusive.
pub(super) fn end_of(prefix: &str) -> Vec<u8> {
    let mut end = prefix.as_bytes().to_vec();
    // Of UTF-8 no byte is 255.
    if let Some(last) = end.last_mut() {
        *last += 1;
    }
    end
}
