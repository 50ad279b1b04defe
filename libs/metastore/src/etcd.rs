//! A store in etcd: what a cluster runs on.
//!
//! One member is asked at a time, and the next one when it does not answer. Everything is linearizable. What may have
//! been applied without an answer is [`StoreError::Unknown`]. Leases are etcd's, which grants 2 s at the least.

mod fault;
mod keys;
mod members;
mod revisions;
mod transaction;
mod watch;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use etcd_client::{
    AlarmAction, AlarmType, Client, Compare as EtcdCompare, CompareOp, Txn as EtcdTxn, TxnOp, TxnOpResponse,
    TxnResponse, WatchOptions, WatchStream,
};

use self::fault::{Fault, NO_SPACE};
use self::keys::{Keys, end_of};
use self::members::{Members, Repeat, SIGN_MAX};
use self::watch::EtcdWatch;
use crate::{
    KeyValue, LeaseId, Metastore, Outcome, RangePage, RangeRequest, Revision, StoreError, StoreProblem, Txn, Watch,
};

/// The largest answer that is read: a watch that was away gets up to 1,000 revisions at once.
const ANSWER_BYTES_MAX: usize = 256 << 20;
/// How often the base of the revisions is written anew when others do so at the same time.
const RAISES_MAX: usize = 10;
/// How long etcd may take to say from where on the history is kept.
const COMPACTED_WAIT: Duration = Duration::from_secs(3);
/// The oldest versions without a known loss of acknowledged writes or of watch events, by minor version.
const VERSIONS_MIN: [(u32, u32, u32); 2] = [(3, 5, 33), (3, 6, 14)];

/// Where etcd is, and how it is spoken to.
#[derive(Debug, Clone, Default)]
pub struct EtcdConfig {
    /// `http://host:port` or `https://host:port`, at least one.
    pub endpoints: Vec<String>,
    /// All keys are below it. A slash is added where it does not end with one.
    pub prefix: String,
    pub credentials: EtcdCredentials,
    /// The history may be compacted: nobody else uses this etcd.
    pub compacts: bool,
}

/// How this process and etcd know each other.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EtcdCredentials {
    /// Name and password.
    pub user: Option<(String, String)>,
    pub tls: Option<EtcdTls>,
}

/// How a member proves who it is, and this process to it, in PEM.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EtcdTls {
    pub ca: Vec<u8>,
    /// Certificate and key.
    pub identity: Option<(Vec<u8>, Vec<u8>)>,
}

/// A store in etcd. Clones share it.
#[derive(Debug, Clone)]
pub struct Etcd {
    members: Arc<Members>,
    keys: Arc<Keys>,
    compacts: bool,
}

/// An answer with the operations of the branch that was carried out.
struct Answered {
    succeeded: bool,
    operations: Vec<TxnOpResponse>,
    /// The revision of etcd.
    raw: i64,
}

// === impl Etcd ===

impl Etcd {
    /// A store that connects when it is used.
    ///
    /// # Errors
    /// [`StoreError::Invalid`] without an endpoint.
    pub fn new(config: &EtcdConfig) -> Result<Self, StoreError> {
        let (members, keys) = (Arc::new(Members::new(config)?), Arc::new(Keys::new(&config.prefix)));
        Ok(Self { members, keys, compacts: config.compacts })
    }

    /// Takes other credentials: the next request goes over a connection that is made with them. Streams stay where they are.
    pub fn renew(&self, credentials: &EtcdCredentials) {
        self.members.renew(credentials);
    }

    /// Those that do not answer, alarms, versions with known faults.
    async fn look_at_members(&self) -> Vec<StoreProblem> {
        let mut problems = Vec::new();
        let alarms = |mut client: Client| async move { client.alarm(AlarmAction::Get, AlarmType::None, None).await };
        let alarms = self.members.ask(Repeat::Always, alarms).await.ok();
        for alarm in alarms.iter().flat_map(|answer| answer.alarms()) {
            let problem = match alarm.alarm() {
                AlarmType::Nospace => StoreProblem::TakesNoWrites(format!("etcd: {NO_SPACE}")),
                AlarmType::Corrupt => {
                    StoreProblem::Part("a member of etcd has a damaged copy: CORRUPT; replace the member".to_owned())
                }
                AlarmType::None => continue,
            };
            if !problems.contains(&problem) {
                problems.push(problem);
            }
        }
        let status = |mut client: Client| async move { client.status().await };
        for (url, answer) in self.members.each(status).await {
            match answer {
                Ok(status) if etcd_is_too_old(status.version()) => problems.push(StoreProblem::Part(format!(
                    "etcd at {url} is version {}, which can lose acknowledged writes or events; run 3.6.14 or 3.5.33, or later",
                    status.version()
                ))),
                Ok(status) => {
                    // Alarms are of the whole etcd, and told already.
                    let own = status.errors().iter().filter(|error| alarms.is_none() || !error.contains("alarm:"));
                    problems.extend(own.map(|error| StoreProblem::Part(format!("etcd at {url}: {error}"))));
                }
                Err(fault) => {
                    problems.push(StoreProblem::Part(format!("etcd at {url} does not answer: {}", fault.of_read())));
                }
            }
        }
        problems
    }

    /// Carries out a transaction of etcd, and takes note of the base of the revisions that it may have asked for.
    async fn perform(&self, repeat: Repeat, txn: EtcdTxn) -> Result<Answered, Fault> {
        let request = |client: Client| {
            let mut kv = client.kv_client().max_decoding_message_size(ANSWER_BYTES_MAX);
            let txn = txn.clone();
            async move { kv.txn(txn).await }
        };
        let answer: TxnResponse = self.members.ask(repeat, request).await?;
        let raw = answer.header().map_or(0, etcd_client::ResponseHeader::revision);
        Ok(Answered { succeeded: answer.succeeded(), operations: answer.op_responses(), raw })
    }

    /// Reads something, and the base of the revisions as of the same revision.
    async fn read(&self, operation: TxnOp) -> Result<Answered, Fault> {
        let txn = EtcdTxn::new().and_then([operation, transaction::base(&self.keys)]);
        self.perform(Repeat::Always, txn).await
    }

    /// What was read, and whether there is more of it.
    fn found(&self, answered: &Answered) -> Result<(Vec<KeyValue>, bool), StoreError> {
        let [found, base] = &answered.operations[..] else { return Err(transaction::unexpected()) };
        transaction::note_base(&self.keys, base)?;
        transaction::entries(&self.keys, found)
    }

    /// Reads the base of the revisions; returns etcd's revision.
    async fn learn_base(&self) -> Result<i64, StoreError> {
        let answered = self.perform(Repeat::Always, EtcdTxn::new().and_then([transaction::base(&self.keys)])).await;
        let answered = answered.map_err(Fault::of_read)?;
        answered.operations.iter().try_for_each(|answer| transaction::note_base(&self.keys, answer))?;
        Ok(answered.raw)
    }

    async fn open_watch(&self, after: i64) -> Result<WatchStream, Fault> {
        // Zero would mean from now on.
        let (prefix, begin) = (self.keys.prefix().to_owned(), after.max(1));
        let request = |client: Client| {
            let options = WatchOptions::new().with_prefix().with_start_revision(begin);
            let mut watch = client.watch_client().max_decoding_message_size(ANSWER_BYTES_MAX);
            let prefix = prefix.clone();
            async move { watch.watch(prefix, Some(options)).await }
        };
        self.members.ask(Repeat::Always, request).await
    }

    /// From where on the history is kept, when it is not as of a revision of etcd: only a watch is told.
    async fn kept_from(&self, raw: i64) -> Revision {
        let told = async {
            let mut stream = self.open_watch(raw).await.ok()?;
            loop {
                let response = stream.message().await.ok()??;
                if response.canceled() {
                    return Some(response.compact_revision());
                }
            }
        };
        let told = tokio::time::timeout(COMPACTED_WAIT, told).await.ok().flatten();
        self.keys.revisions().of(told.unwrap_or(0).max(raw + 1))
    }
}

/// Whether a version of etcd, as it calls itself, can lose acknowledged writes or events.
pub fn etcd_is_too_old(version: &str) -> bool {
    let mut numbers = version.split(['.', '-']).map_while(|number| number.parse().ok());
    let Some(found) = numbers.next().zip(numbers.next()).zip(numbers.next()) else { return false };
    let ((major, minor), patch) = found;
    let floor = VERSIONS_MIN.iter().find(|floor| (floor.0, floor.1) == (major, minor));
    floor.map_or((major, minor) < (VERSIONS_MIN[0].0, VERSIONS_MIN[0].1), |floor| patch < floor.2)
}

#[async_trait]
impl Metastore for Etcd {
    async fn get(&self, key: &str) -> Result<(Option<KeyValue>, Revision), StoreError> {
        let answered = self.read(TxnOp::get(self.keys.stored(key), None)).await.map_err(Fault::of_read)?;
        let (mut entries, _) = self.found(&answered)?;
        Ok((entries.pop(), self.keys.revisions().of(answered.raw)))
    }

    async fn range(&self, request: RangeRequest) -> Result<RangePage, StoreError> {
        crate::limits::check_range(&request)?;
        let raw = match request.revision {
            Some(revision) if revision < 0 => {
                return Err(StoreError::Invalid(format!("revision {revision} does not exist")));
            }
            // Nothing is there before the first one, and etcd would take it for the latest.
            Some(revision) => self.keys.revisions().at_or_below(revision).max(1),
            None => 0,
        };
        let prefix = self.keys.stored(&request.prefix);
        let after = request.after.map(|after| [self.keys.stored(&after).as_bytes(), &[0]].concat());
        let from = after.unwrap_or_default().max(prefix.clone().into_bytes());
        let operation = transaction::range(from, end_of(&prefix), request.limit, raw);
        let answered = match self.read(operation).await {
            Err(Fault::Compacted) => return Err(StoreError::Compacted { kept_from: self.kept_from(raw).await }),
            answered => answered.map_err(Fault::of_read)?,
        };
        let (entries, more) = self.found(&answered)?;
        let revision = request.revision.unwrap_or_else(|| self.keys.revisions().of(answered.raw));
        Ok(RangePage { entries, revision, more })
    }

    async fn transact(&self, txn: Txn) -> Result<Outcome, StoreError> {
        crate::limits::check_txn(&txn)?;
        let encoded = transaction::encode(&self.keys, &txn);
        let answered = match self.perform(Repeat::IfNotApplied, encoded).await {
            Err(Fault::NoLease) => return Err(StoreError::NoLease(transaction::first_lease(&txn))),
            answered => answered.map_err(Fault::of_write)?,
        };
        let count = if answered.succeeded { txn.ops.len() } else { txn.compares.len() };
        match answered.operations.get(count) {
            Some(base) => transaction::note_base(&self.keys, base)?,
            // There was no room to ask. What it was called then is known later, too.
            None => self.learn_base().await.map(drop).map_err(|error| StoreError::Unknown(error.to_string()))?,
        }
        let revision = self.keys.revisions().of(answered.raw);
        if answered.succeeded {
            return Ok(Outcome::Committed(revision));
        }
        let compared = answered.operations.iter().take(count);
        let current: Result<_, _> = compared
            .map(|answer| transaction::entries(&self.keys, answer).map(|(mut entries, _)| entries.pop()))
            .collect();
        Ok(Outcome::Conflict { current: current?, revision })
    }

    async fn raise_revision(&self, floor: Revision) -> Result<Revision, StoreError> {
        let key = self.keys.revision_base();
        for _ in 0..RAISES_MAX {
            let raw = self.learn_base().await?;
            let revisions = self.keys.revisions();
            if revisions.of(raw) >= floor {
                return Ok(revisions.of(raw));
            }
            let unchanged = match revisions.written_at() {
                Some(at) => EtcdCompare::mod_revision(key.clone(), CompareOp::Equal, at),
                None => EtcdCompare::version(key.clone(), CompareOp::Equal, 0),
            };
            let value = revisions.encode_above(floor, raw)?;
            let txn = EtcdTxn::new().when([unchanged]).and_then([TxnOp::put(key.clone(), value.to_vec(), None)]);
            match self.perform(Repeat::IfNotApplied, txn).await {
                // Somebody else was faster, or nobody knows: what is there now says what is left to be done.
                Ok(_) | Err(Fault::Unknown(_)) => {}
                Err(fault) => return Err(fault.of_write()),
            }
        }
        Err(StoreError::Unavailable("the revision is raised by others all the time".to_owned()))
    }

    async fn watch(&self, prefix: &str, after: Revision) -> Result<Box<dyn Watch>, StoreError> {
        self.learn_base().await?;
        let raw = self.keys.revisions().at_or_below(after);
        let stream = self.open_watch(raw).await.map_err(Fault::of_read)?;
        Ok(Box::new(EtcdWatch::new(stream, Arc::clone(&self.keys), prefix, raw)))
    }

    async fn compact(&self, through: Revision) -> Result<(), StoreError> {
        let current = self.learn_base().await?;
        let raw = self.keys.revisions().at_or_below(through);
        if raw > current {
            return Err(StoreError::Invalid(format!("revision {through} does not exist yet")));
        }
        if !self.compacts || raw < 1 {
            return Ok(());
        }
        let request = |mut client: Client| async move { client.compact(raw, None).await };
        match self.members.ask(Repeat::Always, request).await {
            Ok(_) | Err(Fault::Compacted) => Ok(()),
            Err(fault) => Err(fault.of_read()),
        }
    }

    async fn grant(&self, ttl: Duration) -> Result<LeaseId, StoreError> {
        let seconds = i64::try_from(ttl.as_millis().div_ceil(1000)).unwrap_or(i64::MAX).max(1);
        let request = |mut client: Client| async move { client.lease_grant(seconds, None).await };
        let granted = self.members.ask(Repeat::Always, request).await.map_err(Fault::of_read)?;
        Ok(granted.id())
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<(), StoreError> {
        let request = |mut client: Client| async move { client.lease_keep_alive(lease).await.map(drop) };
        match self.members.ask_within(SIGN_MAX, Repeat::Always, request).await {
            Err(Fault::NoLease) => Err(StoreError::NoLease(lease)),
            kept => kept.map_err(Fault::of_read),
        }
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        let request = |mut client: Client| async move { client.lease_revoke(lease).await };
        match self.members.ask(Repeat::Always, request).await {
            Ok(_) | Err(Fault::NoLease) => Ok(()),
            Err(fault) => Err(fault.of_read()),
        }
    }

    fn is_shared(&self) -> bool {
        true
    }

    async fn problems(&self) -> Vec<StoreProblem> {
        self.look_at_members().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_below_the_floor_of_their_line_are_told() {
        for old in ["3.4.27", "3.5.32", "3.6.13", "3.6.0-rc.1"] {
            assert!(etcd_is_too_old(old), "{old}");
        }
        for fine in ["3.5.33", "3.6.14", "3.6.16", "3.7.0", "4.0.0", "dev"] {
            assert!(!etcd_is_too_old(fine), "{fine}");
        }
    }
}
