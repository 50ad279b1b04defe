//! Metadata that is older than the data: noticed when a node registers, and accepted only by an operator.
//!
//! A restored copy of the metadata would hand out versions and leader epochs a second time. A node that has seen more,
//! or another history, is therefore refused. [`accept`] raises both above what the refused nodes report.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use walser_metadata::value::NodeRegistration;
use walser_metastore::{Revision, Txn};
use walser_model::{Clock, LeaderEpoch, NodeId, TopicPartition};
use walser_replication::{NodeSet, control};
use walser_rpc::{ApiError, Reason};

use crate::cluster_view::ClusterView;
use crate::committer::{Extra, maybe};
use crate::keys::lineage::{self, Lineage};
use crate::keys::put;
use crate::nodes::Nodes;
use crate::store::Store;
use crate::topics::{ATTEMPTS_MAX, contended};
use crate::views::Views;

/// Lineages that are accepted in one transaction.
const LINEAGES_PER_TXN: usize = 100;
/// Revisions that are skipped above what nodes have seen: gateways may have seen a few more.
const REVISIONS_SKIPPED: Revision = 1_000_000;
/// A refused node that was not heard of for this long is not reported any more.
const REMEMBERED: Duration = Duration::from_secs(10);
/// How long an acceptance waits for refused nodes to try again, which they do every second, and how often it looks.
const AGAIN_MAX: Duration = Duration::from_secs(5);
const AGAIN_CHECK: Duration = Duration::from_millis(100);
/// Refused nodes that are remembered; of more, those that were heard least recently are forgotten.
const REFUSED_MAX: usize = 1000;
/// No cluster comes to such numbers by itself: who names higher ones would use up what is left of them.
const VERSION_MAX: Revision = Revision::MAX / 2;
/// See [`VERSION_MAX`].
const EPOCH_MAX: LeaderEpoch = LeaderEpoch(i32::MAX / 2);

/// What a caller has seen of the metadata.
#[derive(Debug, Clone, Default)]
pub(crate) struct SeenHistory {
    /// Empty: none.
    pub(crate) cluster_id: String,
    /// Highest version.
    pub(crate) version: Revision,
    /// Lineage of that version; empty: not known.
    pub(crate) lineage: String,
}

/// The history that this controller continues: that of its store, which other controllers continue with it.
#[derive(Debug, Clone)]
pub(crate) struct OwnHistory {
    pub(crate) cluster_id: String,
}

/// Leader epochs of the replicas of a node.
pub(crate) type ReplicaEpochs = HashMap<TopicPartition, LeaderEpoch>;

/// A node that wants to register, by what it has on its disk.
#[derive(Debug, Clone)]
pub(crate) struct Claim {
    pub(crate) node: NodeId,
    /// Id of its data directory, as in [`NodeRegistration`].
    pub(crate) directory: String,
    pub(crate) seen: SeenHistory,
    pub(crate) epochs: ReplicaEpochs,
}

/// A node whose registration was refused.
#[derive(Debug, Clone)]
struct Refused {
    why: ApiError,
    claim: Claim,
    /// Monotonic time.
    heard: Duration,
}

impl Refused {
    /// Whether the node is still there.
    fn recent(&self, now: Duration) -> bool {
        now.saturating_sub(self.heard) <= REMEMBERED
    }

    /// Whether it is, and has found the metadata to be an older copy.
    fn rolled_back(&self, now: Duration) -> bool {
        self.recent(now) && self.why.reason() == Reason::MetadataRollback
    }
}

/// Nodes that were refused. Clones share them.
#[derive(Debug, Clone, Default)]
pub(crate) struct RefusedNodes {
    /// By node and data directory: a stranger may have the id of a node that obeys.
    by_node: Arc<Mutex<BTreeMap<(NodeId, String), Refused>>>,
    /// Nodes that obey the metadata and could not be registered with the data that they have; why, and when (monotonic).
    turned_away: Arc<Mutex<BTreeMap<NodeId, (ApiError, Duration)>>>,
}

// === impl OwnHistory ===

impl OwnHistory {
    /// Refuses a caller of another cluster, and one that has seen another history of the metadata. `true`: it has seen
    /// more than this view includes, so that only the store can tell.
    pub(crate) fn check_known(&self, view: &ClusterView, seen: &SeenHistory) -> Result<bool, ApiError> {
        if !seen.cluster_id.is_empty() && seen.cluster_id != self.cluster_id {
            return Err(ApiError::cluster_id_mismatch(&seen.cluster_id, &self.cluster_id));
        }
        let version = view.metadata.version();
        // Nearly every caller names the latest one, which continues to the present.
        if seen.lineage != view.lineages.latest() && !view.lineages.continues(&seen.lineage, seen.version) {
            // Another controller may have begun it since.
            if seen.version > version && !view.lineages.knows(&seen.lineage) {
                return Ok(true);
            }
            return Err(ApiError::metadata_rollback(seen.version, version));
        }
        Ok(seen.version > version)
    }

    /// The same, and refuses a caller that has seen a higher version than the store holds.
    pub(crate) async fn check(&self, views: &Views, seen: &SeenHistory) -> Result<(), ApiError> {
        if self.check_known(&views.load(), seen)? {
            let view = views.catch_up().await?;
            if self.check_known(&view, seen)? {
                return Err(ApiError::metadata_rollback(seen.version, view.metadata.version()));
            }
        }
        Ok(())
    }
}

/// Refuses numbers that no history of a cluster has led to.
fn check_plausible(claim: &Claim) -> Result<(), ApiError> {
    if claim.seen.version > VERSION_MAX {
        return Err(ApiError::field("metadata_version", format!("{} is above {VERSION_MAX}", claim.seen.version)));
    }
    match claim.epochs.values().max().filter(|epoch| **epoch > EPOCH_MAX) {
        Some(epoch) => Err(ApiError::field("replicas", format!("leader epoch {epoch} is above {EPOCH_MAX}"))),
        None => Ok(()),
    }
}

/// Refuses a node whose replicas have higher leader epochs than the metadata.
fn check_epochs(view: &ClusterView, reported: &ReplicaEpochs) -> Result<(), ApiError> {
    for (id, epoch) in reported {
        let Some(known) = view.metadata.partition(*id) else { continue };
        let current = known.record.state.leader_epoch;
        if *epoch > current {
            let text = format!(
                "replica {id} has leader epoch {}, the metadata {}: it is an older copy; put the right metadata back, or \
                 accept it with `walser metadata accept-restore`",
                epoch.0, current.0
            );
            let failure = ApiError::new(Reason::MetadataRollback, text).with("partition", id);
            return Err(failure.with("epoch", epoch.0).with("currentEpoch", current.0));
        }
    }
    Ok(())
}

// === impl RefusedNodes ===

impl RefusedNodes {
    /// Checks a registration, and remembers the node when it is refused. One that was refused before counts as refused
    /// until it is registered: see [`RefusedNodes::registered`].
    pub(crate) async fn admit(
        &self,
        (own, views): (&OwnHistory, &Views),
        claim: Claim,
        now: Duration,
    ) -> Result<(), ApiError> {
        check_plausible(&claim)?;
        let mut checked = own.check(views, &claim.seen).await;
        if checked.is_ok() {
            checked = check_epochs(&views.load(), &claim.epochs);
        }
        if let Err(why) = &checked {
            self.remember(claim, why, now);
        }
        checked
    }

    /// A node cannot be registered: whoever asks for it is told why, while it tries again.
    pub(crate) fn turn_away(&self, node: NodeId, why: ApiError, now: Duration) {
        let mut turned_away = self.turned_away.lock();
        turned_away.retain(|_, (_, at)| now.saturating_sub(*at) <= REMEMBERED);
        if turned_away.len() < REFUSED_MAX {
            turned_away.insert(node, (why, now));
        }
    }

    /// Why a node could not be registered lately.
    pub(crate) fn turned_away(&self, node: NodeId, now: Duration) -> Option<ApiError> {
        let (why, at) = self.turned_away.lock().get(&node)?.clone();
        (now.saturating_sub(at) <= REMEMBERED).then_some(why)
    }

    /// Nodes that could not be registered lately, and why.
    pub(crate) fn all_turned_away(&self, now: Duration) -> Vec<(NodeId, ApiError)> {
        let turned_away = self.turned_away.lock();
        let recent = turned_away.iter().filter(|(_, (_, at))| now.saturating_sub(*at) <= REMEMBERED);
        recent.map(|(node, (why, _))| (*node, why.clone())).collect()
    }

    /// A node is registered with this directory.
    pub(crate) fn registered(&self, node: NodeId, directory: &str) {
        self.turned_away.lock().remove(&node);
        self.by_node.lock().remove(&(node, directory.to_owned()));
    }

    fn remember(&self, claim: Claim, why: &ApiError, now: Duration) {
        let mut by_node = self.by_node.lock();
        let key = (claim.node, claim.directory.clone());
        by_node.insert(key, Refused { why: why.clone(), claim, heard: now });
        let oldest = by_node.iter().min_by_key(|(_, refused)| refused.heard).map(|(key, _)| key.clone());
        if let Some(oldest) = oldest.filter(|_| by_node.len() > REFUSED_MAX) {
            by_node.remove(&oldest);
        }
    }

    /// Nodes that are refused at present, with their data directories, and why.
    pub(crate) fn refused(&self, now: Duration) -> Vec<((NodeId, String), ApiError)> {
        let mut by_node = self.by_node.lock();
        by_node.retain(|_, refused| refused.recent(now));
        by_node.iter().map(|(key, refused)| (key.clone(), refused.why.clone())).collect()
    }

    /// Why the metadata is not changed at present: a storage node has found it lately to be an older copy; or the only
    /// nodes that are heard (`own_heard`: whether any that is registered is) are of another cluster. Where nodes of this
    /// cluster are there, a stranger does not hold them up.
    pub(crate) fn forbids_changes(&self, own_heard: bool, now: Duration) -> Option<ApiError> {
        let by_node = self.by_node.lock();
        let stranger =
            |refused: &&Refused| !own_heard && refused.recent(now) && refused.why.reason() == Reason::ClusterIdMismatch;
        let rolled_back = by_node.values().find(|refused| refused.rolled_back(now));
        rolled_back.or_else(|| by_node.values().find(stranger)).map(|refused| refused.why.clone())
    }

    /// Whether a node that names this id was refused lately, be it the one that has registered or a stranger.
    pub(crate) fn claimed(&self, node: NodeId, now: Duration) -> bool {
        self.by_node.lock().values().any(|refused| refused.claim.node == node && refused.recent(now))
    }

    /// Whether a registered node is there and does not obey this metadata. Another one of the same id, which has other
    /// data, says nothing about it.
    pub(crate) fn refuses(&self, node: NodeId, registered: &NodeRegistration, now: Duration) -> bool {
        let by_node = self.by_node.lock();
        let known = &registered.directory;
        let same = |claim: &Claim| claim.node == node && (known.is_empty() || *known == claim.directory);
        by_node.values().any(|refused| refused.recent(now) && same(&refused.claim))
    }

    /// Waits until every node that has found the metadata to be an older copy has said so again; returns those that have.
    /// One that was stopped a moment ago is remembered, and is not there.
    async fn rolled_back_again(&self, clock: &dyn Clock) -> BTreeSet<NodeId> {
        let begin = clock.monotonic();
        loop {
            let now = clock.monotonic();
            let (again, quiet): (Vec<_>, Vec<_>) = {
                let by_node = self.by_node.lock();
                let rolled_back = by_node.values().filter(|refused| refused.rolled_back(now));
                rolled_back.map(|refused| (refused.claim.node, refused.heard)).partition(|(_, heard)| *heard >= begin)
            };
            if quiet.is_empty() || now.saturating_sub(begin) > AGAIN_MAX {
                return again.into_iter().map(|(node, _)| node).collect();
            }
            tokio::time::sleep(AGAIN_CHECK).await;
        }
    }

    fn rolled_back(&self, now: Duration) -> Vec<Claim> {
        let by_node = self.by_node.lock();
        let rolled_back = by_node.values().filter(|refused| refused.rolled_back(now));
        rolled_back.map(|refused| refused.claim.clone()).collect()
    }
}

/// What an accepted restore has changed.
#[derive(Debug, Clone, Default)]
pub(crate) struct Accepted {
    pub(crate) nodes: Vec<NodeId>,
    pub(crate) version: Revision,
    pub(crate) partitions: usize,
}

/// Refuses to accept a restore while a registered node is neither in service nor refused: what it has seen would not count.
/// One that only the metadata has in service, and that this controller has not heard, is not there. `is_there`: of a node,
/// and whether it is fenced.
fn check_all_there(view: &ClusterView, is_there: impl Fn(NodeId, bool) -> bool) -> Result<(), ApiError> {
    let registered = view.metadata.nodes().filter(|(_, node)| node.epoch > 0);
    let nodes = registered.filter(|(id, node)| !is_there(*id, node.liveness.fenced));
    let missing: Vec<_> = nodes.map(|(id, _)| id.to_string()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let text = format!(
        "registered storage nodes are neither in service nor refused ({}): what only they have would be lost; start them, or \
         say that they are gone (`walser metadata accept-restore --yes --without-missing-nodes`)",
        missing.join(", ")
    );
    Err(ApiError::new(Reason::PolicyViolation, text).with("policy", "missing-nodes").with("nodes", missing.join(",")))
}

/// Whether this metadata continues what a node has seen, so that it is taken when it registers.
fn obeys(view: &ClusterView, claim: &Claim) -> bool {
    let SeenHistory { lineage, version, .. } = &claim.seen;
    *version <= view.metadata.version()
        && view.lineages.continues(lineage, *version)
        && check_epochs(view, &claim.epochs).is_ok()
}

/// Accepts restored metadata: raises the store's revision and leader epochs above everything that refused nodes have
/// seen. Accepting twice does nothing to partitions that are above that already.
pub(crate) async fn accept(
    store: &Store,
    nodes: &Nodes,
    refused: &RefusedNodes,
    (clock, without_missing): (&dyn Clock, bool),
    is_heard: impl Fn(NodeId) -> bool,
) -> Result<Accepted, ApiError> {
    let views = &nodes.committer().views;
    let there = if without_missing { BTreeSet::new() } else { refused.rolled_back_again(clock).await };
    let now = clock.monotonic();
    let mut rolled_back = refused.rolled_back(now);
    if rolled_back.is_empty() {
        // Accepting helps none of those that were refused for another reason.
        if let Some(((node, _), why)) = refused.refused(now).first() {
            let text = format!("storage node {node} is refused for another reason: {}", why.message());
            return Err(ApiError::new(why.reason(), text));
        }
        // Nobody refuses the metadata yet, or any more. Those that are heard obey it, fenced or not.
        if !without_missing {
            check_all_there(&views.load(), |id, _fenced| is_heard(id))?;
        }
        return Ok(Accepted { version: views.load().metadata.version(), ..Accepted::default() });
    }
    let ids: BTreeSet<_> = rolled_back.iter().map(|claim| claim.node).collect();
    let view = views.catch_up().await?;
    // Those that were accepted before, and have not registered again yet, need nothing more.
    rolled_back.retain(|claim| !obeys(&view, claim));
    if rolled_back.is_empty() {
        return Ok(Accepted { nodes: ids.into_iter().collect(), version: view.metadata.version(), partitions: 0 });
    }
    if !without_missing {
        check_all_there(&view, |id, fenced| there.contains(&id) || !fenced && is_heard(id))?;
    }
    let seen = rolled_back.iter().map(|claim| claim.seen.version).max().unwrap_or(0);
    let mut highest = ReplicaEpochs::new();
    for (partition, epoch) in rolled_back.iter().flat_map(|claim| &claim.epochs) {
        let known = highest.entry(*partition).or_insert(*epoch);
        *known = (*known).max(*epoch);
    }
    // First the revision: partitions are written above all that nodes have seen of them, who would ignore it otherwise. What
    // lets nodes register comes last. Producer ids need nothing: each start of a controller hands out others.
    let version = store.raise_revision(seen.saturating_add(REVISIONS_SKIPPED)).await?;
    let begun = |failure: ApiError| maybe(&failure);
    views.catch_up().await.map_err(begun)?;
    let partitions = raise_epochs(nodes, (&ids.iter().copied().collect(), &highest)).await.map_err(begun)?;
    accept_lineages(store, &rolled_back, version).await.map_err(begun)?;
    views.catch_up().await.map_err(begun)?;
    Ok(Accepted { nodes: ids.into_iter().collect(), version, partitions })
}

/// Takes the partitions of a restored store into use, above the leader epochs that the `refused` nodes have seen; returns
/// how many have changed. Nodes that came before them may lead by the copy, in epochs that are higher: they do not go on.
async fn raise_epochs(nodes: &Nodes, (refused, seen): (&NodeSet, &ReplicaEpochs)) -> Result<usize, ApiError> {
    let mut raised = BTreeSet::new();
    for _ in 0..ATTEMPTS_MAX {
        let _turn = nodes.turns().next().await?;
        let (view, context) = nodes.committer().context()?;
        let mut decisions = Vec::new();
        for known in view.metadata.partitions().filter(|known| !raised.contains(&known.record.key)) {
            let id = known.record.key;
            let decision = control::restore(&context, &known.record, seen.get(&id).copied(), refused);
            decisions.extend(decision.map(|decision| (id, decision)));
        }
        let (ids, decisions): (Vec<_>, Vec<_>) = decisions.into_iter().unzip();
        if decisions.is_empty() || nodes.committer().commit_all(&view, decisions, &Extra::default()).await? {
            return Ok(raised.len() + ids.len());
        }
        // Those that were written are not raised again.
        let written = nodes.committer().views.load();
        let epoch = |view: &ClusterView, id| view.metadata.partition(id).map(|known| known.record.state.leader_epoch);
        raised.extend(ids.into_iter().filter(|id| epoch(&view, *id) != epoch(&written, *id)));
    }
    Err(contended())
}

/// Accepts what was seen under the lineages of refused nodes, and under others up to the revision `through`: a node that was
/// away has seen the history that is given up, too.
async fn accept_lineages(store: &Store, claims: &[Claim], through: Revision) -> Result<(), ApiError> {
    let ids: BTreeSet<_> = claims.iter().map(|claim| &claim.seen.lineage).filter(|id| !id.is_empty()).collect();
    let mut all: Vec<_> = ids.into_iter().map(Lineage::new).collect();
    all.push(Lineage::unknown_through(through));
    for part in all.chunks(LINEAGES_PER_TXN) {
        let accept = |lineage: &Lineage| put(lineage::accepted_key(&lineage.id), lineage);
        // Without a condition: accepting twice is the same.
        let txn = Txn { compares: Vec::new(), ops: part.iter().map(accept).collect() };
        // A transaction without conditions is written, or its outcome is not known.
        let mut attempts = 0;
        while store.commit(txn.clone()).await?.is_none() {
            attempts += 1;
            if attempts == ATTEMPTS_MAX {
                return Err(contended());
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use walser_metadata::{Delta, MetadataChange};
    use walser_model::{PartitionIndex, TopicId};

    use super::*;

    /// Metadata that was put back has nodes in service that may not be there at all.
    #[test]
    fn a_node_that_was_not_heard_is_missing_whatever_the_metadata_says() {
        let mut view = ClusterView::default();
        let registered = |node: i32| MetadataChange::Registration {
            node: NodeId(node),
            value: Box::new(NodeRegistration::default()),
            revision: 1,
        };
        let changes = (1..=3).map(registered).collect();
        view.metadata.apply(Delta { version: 1, snapshot: true, changes }).unwrap();
        assert!(check_all_there(&view, |_, _| true).is_ok());
        let missing = check_all_there(&view, |node, _| node != NodeId(3)).unwrap_err();
        assert_eq!((missing.reason(), missing.value("nodes")), (Reason::PolicyViolation, Some("3")));
    }

    #[test]
    fn a_stranger_with_the_id_of_a_node_says_nothing_about_it() {
        let refused = RefusedNodes::default();
        let second = Duration::from_secs(1);
        let remember = |node: i32, directory: &str| {
            let (node, directory) = (NodeId(node), directory.to_owned());
            let claim = Claim { node, directory, seen: SeenHistory::default(), epochs: ReplicaEpochs::new() };
            refused.remember(claim, &ApiError::cluster_id_mismatch("a", "b"), second);
        };
        let registered = |directory: &str| NodeRegistration { directory: directory.to_owned(), ..Default::default() };
        remember(1, "stranger");
        assert!(!refused.refuses(NodeId(1), &registered("own"), second));
        assert!(refused.refuses(NodeId(1), &registered(""), second), "of an old registration it is not known");
        assert!(refused.claimed(NodeId(1), second) && !refused.claimed(NodeId(2), second));
        assert!(refused.forbids_changes(true, second).is_none(), "it does not hold up a cluster with nodes of its own");
        let why = refused.forbids_changes(false, second).expect("nobody else is there");
        assert_eq!(why.reason(), Reason::ClusterIdMismatch);
        assert!(refused.forbids_changes(false, 2 * REMEMBERED).is_none(), "it is gone");
        remember(1, "own");
        assert!(refused.refuses(NodeId(1), &registered("own"), second));
        assert!(!refused.refuses(NodeId(2), &registered("own"), second));
        assert_eq!(refused.refused(second).len(), 2);
        for number in 0..10_000 {
            remember(number, "more");
        }
        assert_eq!(refused.refused(second).len(), REFUSED_MAX);
    }

    #[test]
    fn numbers_that_would_use_up_what_is_left_are_refused() {
        let claim = |version, epoch| Claim {
            node: NodeId(1),
            directory: String::new(),
            seen: SeenHistory { version, ..SeenHistory::default() },
            epochs: [(TopicPartition::new(TopicId::from_bytes([1; 16]), PartitionIndex(0)), LeaderEpoch(epoch))].into(),
        };
        assert!(check_plausible(&claim(VERSION_MAX, EPOCH_MAX.0)).is_ok());
        assert!(check_plausible(&claim(i64::MAX, 1)).is_err());
        assert!(check_plausible(&claim(1, i32::MAX)).is_err());
    }
}
