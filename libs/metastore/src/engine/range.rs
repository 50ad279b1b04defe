//! Pages of the engine's entries, also as of an older revision: what was replaced since then is in the history.

use std::collections::BTreeMap;
use std::ops::Bound;

use super::State;
use crate::{KeyValue, RangePage, RangeRequest, Revision, StoreError};

impl State {
    pub(super) fn range(&self, request: &RangeRequest) -> Result<RangePage, StoreError> {
        crate::limits::check_range(request)?;
        let revision = request.revision.unwrap_or(self.revision);
        if revision < 0 || revision > self.revision {
            let text = format!("revision {revision} is not there; read at 0 to {}", self.revision);
            return Err(StoreError::Invalid(text));
        }
        if revision < self.kept_from {
            return Err(StoreError::Compacted { kept_from: self.kept_from });
        }
        let prefix = request.prefix.as_str();
        let start = match &request.after {
            Some(after) if after.as_str() >= prefix => Bound::Excluded(after.as_str()),
            _ => Bound::Included(prefix),
        };
        // One more than asked for shows whether there are more.
        let most = request.limit.saturating_add(1);
        let replaced = self.replaced_after(revision);
        let replaced_here = replaced.range::<str, _>((start, Bound::Unbounded));
        let replaced_here = replaced_here.take_while(|(key, _)| key.starts_with(prefix));
        let same = self.entries.range::<str, _>((start, Bound::Unbounded));
        let same = same.take_while(|(key, _)| key.starts_with(prefix));
        let same = same.filter(|(key, _)| !replaced.contains_key(key.as_str())).map(|(_, entry)| entry);
        let mut found: Vec<&KeyValue> = same.take(most).collect();
        found.extend(replaced_here.filter_map(|(_, entry)| *entry).take(most));
        found.sort_unstable_by(|one, other| one.key.cmp(&other.key));
        let more = found.len() > request.limit;
        let entries = found.into_iter().take(request.limit).cloned().collect();
        Ok(RangePage { entries, revision, more })
    }

    /// The keys that changed after `revision`, with what they were then; `None`: they did not exist.
    fn replaced_after(&self, revision: Revision) -> BTreeMap<&str, Option<&KeyValue>> {
        let mut replaced = BTreeMap::new();
        let first = self.history.partition_point(|(changed, _)| *changed <= revision);
        for recorded in self.history.range(first..).flat_map(|(_, changes)| changes.iter()) {
            // The first change after the revision replaced what was there then.
            replaced.entry(recorded.change.key()).or_insert(recorded.replaced.as_ref());
        }
        replaced
    }
}
