//! A watch on etcd.
//!
//! It sees every change of the store, and returns those under its prefix: so it knows of each revision as it comes. etcd
//! does not say by itself that nothing has happened, and its streams do not always end when it does: once a second it is
//! asked how far it is, and a watch whose question is not answered for 3 s is over.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use etcd_client::{Error, EventType, WatchResponse, WatchStream};
use tokio::time::{Instant, Interval, MissedTickBehavior};

use super::fault::text_of;
use super::keys::Keys;
use crate::{Change, Watch, WatchError, WatchEvent};

/// How often etcd is asked how far it is.
const ASK_EVERY: Duration = Duration::from_secs(1);
/// A watch whose question is not answered for this long is over.
const SILENCE_MAX: Duration = Duration::from_secs(3);

/// A watch that began behind a revision of etcd.
pub(super) struct EtcdWatch {
    stream: WatchStream,
    keys: Arc<Keys>,
    /// The prefix, as etcd has it.
    prefix: String,
    /// Changes up to this revision of etcd are known, or were not asked for.
    seen: i64,
    pending: VecDeque<WatchEvent>,
    ticks: Interval,
    /// The first question that nothing was heard after.
    asked: Option<Instant>,
    ended: Option<WatchError>,
}

impl fmt::Debug for EtcdWatch {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { prefix, seen, ended, .. } = self;
        formatter.debug_struct("EtcdWatch").field("prefix", prefix).field("seen", seen).field("ended", ended).finish()
    }
}

impl EtcdWatch {
    /// `after`: a revision of etcd. The stream begins with it, so that etcd says when it is compacted.
    pub(super) fn new(stream: WatchStream, keys: Arc<Keys>, prefix: &str, after: i64) -> Self {
        let mut ticks = tokio::time::interval_at(Instant::now() + ASK_EVERY, ASK_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let prefix = keys.stored(prefix);
        let (pending, asked, ended) = (VecDeque::new(), None, None);
        Self { stream, keys, prefix, seen: after, pending, ticks, asked, ended }
    }

    async fn ask(&mut self) {
        if self.asked.is_some_and(|asked| asked.elapsed() >= SILENCE_MAX) {
            let text = format!("etcd has said nothing for {} s", SILENCE_MAX.as_secs());
            self.ended = Some(WatchError::Unavailable(text));
        } else if let Err(error) = self.stream.request_progress().await {
            self.ended = Some(WatchError::Unavailable(text_of(&error)));
        } else {
            self.asked.get_or_insert_with(Instant::now);
        }
    }

    fn hear(&mut self, message: Result<Option<WatchResponse>, Error>) {
        self.asked = None;
        let ended = match message {
            Ok(Some(response)) => self.take(&response),
            Ok(None) => Err(WatchError::Unavailable("etcd has ended the watch".to_owned())),
            Err(error) => Err(WatchError::Unavailable(text_of(&error))),
        };
        self.ended = ended.err();
    }

    fn take(&mut self, response: &WatchResponse) -> Result<(), WatchError> {
        if response.canceled() {
            return Err(match response.compact_revision() {
                0 => WatchError::Unavailable(format!("etcd has ended the watch: {}", response.cancel_reason())),
                compacted => WatchError::Compacted { kept_from: self.keys.revisions().of(compacted) },
            });
        }
        if response.created() {
            return Ok(());
        }
        if response.events().is_empty() {
            let revision = response.header().map_or(0, etcd_client::ResponseHeader::revision);
            if revision > self.seen {
                self.progress(revision);
            }
            return Ok(());
        }
        // All events of a revision are in one message.
        let changed = response.events().iter().filter_map(|event| Some((event.event_type(), event.kv()?)));
        let changed: Vec<_> = changed.filter(|(_, kv)| kv.mod_revision() > self.seen).collect();
        for of_revision in changed.chunk_by(|(_, one), (_, other)| one.mod_revision() == other.mod_revision()) {
            let mut changes = Vec::new();
            for (kind, kv) in of_revision {
                let noted = self.keys.note(kv).map_err(|error| WatchError::Unavailable(error.to_string()))?;
                if noted || !kv.key().starts_with(self.prefix.as_bytes()) {
                    continue;
                }
                let found = self.keys.entry(kv).map_err(|error| WatchError::Unavailable(error.to_string()))?;
                changes.push(match kind {
                    EventType::Put => Change::Put(found),
                    EventType::Delete => Change::Delete { key: found.key },
                });
            }
            let (_, last) = &of_revision[0];
            if changes.is_empty() {
                self.progress(last.mod_revision());
            } else {
                self.seen = last.mod_revision();
                self.pending.push_back(WatchEvent::Changes { revision: self.keys.revisions().of(self.seen), changes });
            }
        }
        Ok(())
    }

    /// Nothing has changed under the prefix up to a revision of etcd.
    fn progress(&mut self, seen: i64) {
        self.seen = seen;
        let revision = self.keys.revisions().of(seen);
        match self.pending.back_mut() {
            Some(WatchEvent::Progress { revision: before }) => *before = revision,
            _ => self.pending.push_back(WatchEvent::Progress { revision }),
        }
    }
}

#[async_trait]
impl Watch for EtcdWatch {
    async fn next(&mut self) -> Result<WatchEvent, WatchError> {
        loop {
            if let Some(event) = self.pending.pop_front() {
                return Ok(event);
            }
            if let Some(ended) = &self.ended {
                return Err(ended.clone());
            }
            tokio::select! {
                biased;
                message = self.stream.message() => self.hear(message),
                _ = self.ticks.tick() => self.ask().await,
            }
        }
    }
}
