//! What nodes said last: when they were heard, what they have seen, and their statistics.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use walser_metastore::Revision;
use walser_model::{NodeId, Timestamp, TopicId, TopicPartition};
use walser_replication::NodeSet;
use walser_replication::control::Candidate;
use walser_rpc::{ApiError, Reason};

/// Confirmations of removed topics that wait to be written; nodes repeat the others.
const CONFIRMED_MAX: usize = 10_000;

/// Partitions of which offers are kept; nodes repeat the others.
const OFFERED_MAX: usize = 200_000;

/// A node's session. `S`: its statistics.
#[derive(Debug, Clone, Default)]
pub(crate) struct Session<S> {
    pub(crate) node_epoch: Revision,
    /// The highest version of the metadata that it has applied.
    pub(crate) metadata_version: Revision,
    pub(crate) stats: S,
    /// Monotonic time of the last beat.
    pub(crate) heard: Duration,
    /// The same in wall-clock time, for people.
    pub(crate) heard_ms: Timestamp,
    /// Given to a node that this controller has not heard since it leads.
    pub(crate) given: bool,
    /// The node wants to stop.
    pub(crate) stopping: bool,
}

/// Sessions by node. Clones share them.
#[derive(Debug, Clone)]
pub(crate) struct Sessions<S> {
    inner: Arc<Mutex<Inner<S>>>,
}

#[derive(Debug)]
struct Inner<S> {
    by_node: HashMap<NodeId, Session<S>>,
    /// What nodes said last whose sessions have ended.
    said_last: HashMap<NodeId, Session<S>>,
    /// Nodes whose connection has broken, with their epochs, and since when in monotonic time: they have not been heard since.
    lost: HashMap<NodeId, (Revision, Duration)>,
    /// Nodes that may stop, with their epochs.
    may_stop: HashMap<NodeId, Revision>,
    /// Why the next beat of a node is refused: looked up while the last one was answered.
    refused: HashMap<NodeId, ApiError>,
    /// Nodes of which the store is asked whether it has what they have seen.
    looked_up: HashSet<NodeId>,
    /// Deleted topics of which nodes have nothing any more.
    confirmed: BTreeMap<TopicId, BTreeSet<NodeId>>,
    /// What replicas would lead with, of partitions that nobody leads.
    offers: HashMap<TopicPartition, BTreeMap<NodeId, Candidate>>,
    /// There are offers that nobody has looked at.
    offered: bool,
}

impl<S> Default for Sessions<S> {
    fn default() -> Self {
        let inner = Inner {
            by_node: HashMap::new(),
            said_last: HashMap::new(),
            lost: HashMap::new(),
            may_stop: HashMap::new(),
            refused: HashMap::new(),
            looked_up: HashSet::new(),
            confirmed: BTreeMap::new(),
            offers: HashMap::new(),
            offered: false,
        };
        Self { inner: Arc::new(Mutex::new(inner)) }
    }
}

impl<S> Session<S> {
    /// Whether the node was heard itself: the session was not given to it.
    fn is_own(&self) -> bool {
        !self.given
    }

    fn is_silent(&self, now: Duration, limit: Duration) -> bool {
        now.saturating_sub(self.heard) > limit
    }
}

impl<S: Clone> Sessions<S> {
    pub(crate) fn beat(&self, node: NodeId, session: Session<S>) {
        let mut inner = self.inner.lock();
        inner.lost.remove(&node);
        inner.said_last.remove(&node);
        inner.by_node.insert(node, session);
    }

    /// The connection of a node has broken.
    pub(crate) fn lose(&self, node: NodeId, node_epoch: Revision, now: Duration) {
        self.inner.lock().lost.insert(node, (node_epoch, now));
    }

    /// Nodes whose connection broke longer than `grace` ago, and that have not come back, with their epochs; none while at
    /// most half of the nodes were heard within `recent`: then it is this controller that is cut off.
    pub(crate) fn lost(&self, now: Duration, grace: Duration, recent: Duration) -> Vec<(NodeId, Revision)> {
        let inner = self.inner.lock();
        let heard = |session: &&Session<S>| now.saturating_sub(session.heard) <= recent;
        if 2 * inner.by_node.values().filter(heard).count() <= inner.by_node.len() {
            return Vec::new();
        }
        let gone = inner.lost.iter().filter(|(_, (_, since))| now.saturating_sub(*since) > grace);
        let current =
            |node: &NodeId, epoch: Revision| inner.by_node.get(node).is_some_and(|session| session.node_epoch == epoch);
        let gone = gone.map(|(node, (node_epoch, _))| (*node, *node_epoch));
        gone.filter(|(node, node_epoch)| current(node, *node_epoch)).collect()
    }

    /// Nodes that were not heard within `recent`, or by this controller at all, or whose connection has broken since.
    pub(crate) fn out_of_sight(&self, now: Duration, recent: Duration) -> NodeSet {
        let inner = self.inner.lock();
        let lost = |node: &NodeId, epoch| inner.lost.get(node).is_some_and(|(lost, _)| *lost == epoch);
        let silent = |session: &Session<S>| !session.is_own() || session.is_silent(now, recent);
        let unseen = inner.by_node.iter();
        let unseen = unseen.filter(|(node, session)| silent(session) || lost(node, session.node_epoch));
        unseen.map(|(node, _)| *node).collect()
    }

    pub(crate) fn get(&self, node: NodeId) -> Option<Session<S>> {
        self.inner.lock().by_node.get(&node).cloned()
    }

    /// Whether a registered node has been heard since this controller leads.
    pub(crate) fn any_heard(&self) -> bool {
        self.inner.lock().by_node.values().any(Session::is_own)
    }

    /// The version that a node has applied, if it was heard within `limit`.
    pub(crate) fn seen(&self, node: NodeId, node_epoch: Revision, now: Duration, limit: Duration) -> Option<Revision> {
        let inner = self.inner.lock();
        let session = inner.by_node.get(&node).filter(|session| session.node_epoch == node_epoch)?;
        (now.saturating_sub(session.heard) <= limit).then_some(session.metadata_version)
    }

    /// Whether a node was heard itself within `limit`.
    pub(crate) fn is_heard(&self, node: NodeId, node_epoch: Revision, now: Duration, limit: Duration) -> bool {
        let inner = self.inner.lock();
        let session = inner.by_node.get(&node).filter(|session| session.node_epoch == node_epoch);
        session.is_some_and(|session| session.is_own() && !session.is_silent(now, limit))
    }

    /// Nodes whose last beat is older than `limit`, with their epochs; those that have been silent for longest first.
    pub(crate) fn silent(&self, now: Duration, limit: Duration) -> Vec<(NodeId, Revision)> {
        let inner = self.inner.lock();
        let silent = inner.by_node.iter().filter(|(_, session)| session.is_silent(now, limit));
        let mut silent: Vec<_> = silent.map(|(node, session)| (session.heard, *node, session.node_epoch)).collect();
        silent.sort_unstable();
        silent.into_iter().map(|(_, node, node_epoch)| (node, node_epoch)).collect()
    }

    /// Whether a node has a session in which it was not heard for longer than `limit`.
    pub(crate) fn is_silent(&self, node: NodeId, now: Duration, limit: Duration) -> bool {
        self.inner.lock().by_node.get(&node).is_some_and(|session| session.is_silent(now, limit))
    }

    /// Whether a silent node can be away. One that was heard in a process that is `standalone` is a part of it, and ends with
    /// it.
    pub(crate) fn may_be_away(&self, node: NodeId, standalone: bool) -> bool {
        let inner = self.inner.lock();
        let heard = inner.by_node.get(&node).is_some_and(Session::is_own);
        !standalone || inner.by_node.values().any(Session::is_own) && !heard
    }

    /// Nobody could be heard for this long: it counts for no session, and for no connection that has broken. Whoever was
    /// heard since is not heard in advance.
    pub(crate) fn extend(&self, pause: Duration, now: Duration) {
        let mut inner = self.inner.lock();
        inner.by_node.values_mut().for_each(|session| session.heard = (session.heard + pause).min(now));
        inner.lost.values_mut().for_each(|(_, since)| *since = (*since + pause).min(now));
    }

    pub(crate) fn end(&self, node: NodeId, node_epoch: Revision) {
        let mut inner = self.inner.lock();
        if inner.by_node.get(&node).is_some_and(|session| session.node_epoch == node_epoch) {
            let ended = inner.by_node.remove(&node);
            inner.said_last.extend(ended.map(|session| (node, session)));
            inner.lost.remove(&node);
        }
    }

    /// Forgets nodes that are not registered any more: whatever has such an id later is another one.
    pub(crate) fn retain(&self, registered: impl Fn(NodeId) -> bool) {
        let mut inner = self.inner.lock();
        inner.by_node.retain(|node, _| registered(*node));
        inner.said_last.retain(|node, _| registered(*node));
        inner.lost.retain(|node, _| registered(*node));
        inner.may_stop.retain(|node, _| registered(*node));
        inner.refused.retain(|node, _| registered(*node));
    }

    /// What a node has said last whose session has ended.
    pub(crate) fn said_last(&self, node: NodeId) -> Option<Session<S>> {
        self.inner.lock().said_last.get(&node).cloned()
    }

    /// Nodes that want to stop and are not told yet that they may, with their epochs.
    pub(crate) fn stopping(&self) -> Vec<(NodeId, Revision)> {
        let inner = self.inner.lock();
        let told = |node: &NodeId, session: &Session<S>| inner.may_stop.get(node) == Some(&session.node_epoch);
        let stopping = inner.by_node.iter().filter(|(node, session)| session.stopping && !told(node, session));
        stopping.map(|(node, session)| (*node, session.node_epoch)).collect()
    }

    /// A node may stop in this incarnation: its next beat is answered so.
    pub(crate) fn let_stop(&self, node: NodeId, node_epoch: Revision) {
        self.inner.lock().may_stop.insert(node, node_epoch);
    }

    pub(crate) fn may_stop(&self, node: NodeId, node_epoch: Revision) -> bool {
        self.inner.lock().may_stop.get(&node) == Some(&node_epoch)
    }

    /// Refuses the next beat of a node. Where it is of another history, what it has said was of metadata that this controller
    /// does not have.
    pub(crate) fn refuse(&self, node: NodeId, why: ApiError) {
        let stranger = matches!(why.reason(), Reason::ClusterIdMismatch | Reason::MetadataRollback);
        let mut inner = self.inner.lock();
        inner.refused.insert(node, why);
        if !stranger {
            return;
        }
        let Inner { by_node, said_last, .. } = &mut *inner;
        for said in by_node.get_mut(&node).into_iter().chain(said_last.get_mut(&node)) {
            said.metadata_version = 0;
        }
    }

    /// Whether what a node has seen is to be looked up now: it is not being looked up.
    pub(crate) fn begins_look_up(&self, node: NodeId) -> bool {
        self.inner.lock().looked_up.insert(node)
    }

    /// It was looked up.
    pub(crate) fn ends_look_up(&self, node: NodeId) {
        self.inner.lock().looked_up.remove(&node);
    }

    /// Why the beat of a node is refused, once.
    pub(crate) fn take_refusal(&self, node: NodeId) -> Option<ApiError> {
        self.inner.lock().refused.remove(&node)
    }

    /// A node has nothing of deleted topics any more. False: there is nothing new, or no room.
    pub(crate) fn confirm(&self, node: NodeId, topics: impl IntoIterator<Item = TopicId>) -> bool {
        let mut inner = self.inner.lock();
        let mut fresh = false;
        for topic in topics {
            if inner.confirmed.len() < CONFIRMED_MAX || inner.confirmed.contains_key(&topic) {
                fresh |= inner.confirmed.entry(topic).or_default().insert(node);
            }
        }
        fresh
    }

    /// A node says what it has of partitions that nobody leads.
    pub(crate) fn offer(&self, offers: impl IntoIterator<Item = (TopicPartition, Candidate)>) {
        let mut inner = self.inner.lock();
        for (id, candidate) in offers {
            if inner.offers.len() < OFFERED_MAX || inner.offers.contains_key(&id) {
                let before = inner.offers.entry(id).or_default().insert(candidate.node, candidate);
                inner.offered |= before != Some(candidate);
            }
        }
    }

    /// What replicas of a partition would lead with. Those that are no longer true name an older version of the partition,
    /// or an earlier incarnation.
    pub(crate) fn offers(&self, id: TopicPartition) -> Vec<Candidate> {
        self.inner.lock().offers.get(&id).map(|offers| offers.values().copied().collect()).unwrap_or_default()
    }

    /// Partitions with offers, if there are any that are new since this was called last.
    pub(crate) fn take_offered(&self) -> Vec<TopicPartition> {
        let mut inner = self.inner.lock();
        if std::mem::take(&mut inner.offered) { inner.offers.keys().copied().collect() } else { Vec::new() }
    }

    /// The offers are to be looked at again.
    pub(crate) fn look_again(&self) {
        self.inner.lock().offered = true;
    }

    /// A partition has a leader, or is no more.
    pub(crate) fn forget_offers(&self, id: TopicPartition) {
        self.inner.lock().offers.remove(&id);
    }

    /// Confirmations that came in since this was called last.
    pub(crate) fn take_confirmed(&self) -> BTreeMap<TopicId, BTreeSet<NodeId>> {
        std::mem::take(&mut self.inner.lock().confirmed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_that_was_given_is_no_word_of_the_node() {
        let sessions = Sessions::<()>::default();
        sessions.beat(NodeId(1), Session { node_epoch: 7, given: true, ..Session::default() });
        assert!(!sessions.any_heard());
        sessions.beat(NodeId(1), Session { node_epoch: 7, ..Session::default() });
        assert!(sessions.any_heard());
    }

    #[test]
    fn nothing_of_a_node_is_remembered_once_it_is_not_registered_any_more() {
        let sessions = Sessions::<u8>::default();
        for node in [1, 2, 3] {
            sessions.beat(NodeId(node), Session { node_epoch: 7, stats: 9, ..Session::default() });
        }
        sessions.end(NodeId(2), 7);
        sessions.lose(NodeId(3), 7, Duration::ZERO);
        sessions.let_stop(NodeId(3), 7);
        assert_eq!(sessions.said_last(NodeId(2)).map(|said| (said.node_epoch, said.stats)), Some((7, 9)));
        sessions.retain(|node| node == NodeId(1));
        assert!(sessions.get(NodeId(1)).is_some() && sessions.get(NodeId(3)).is_none());
        assert!(sessions.said_last(NodeId(2)).is_none() && !sessions.may_stop(NodeId(3), 7));
        let long = Duration::from_secs(9);
        assert_eq!(sessions.lost(long, Duration::ZERO, long), []);
    }

    #[test]
    fn a_node_whose_connection_broke_is_lost_until_it_is_heard_and_only_while_most_others_are_heard() {
        let sessions = Sessions::<()>::default();
        let millis = Duration::from_millis;
        let beat = |node: i32, at: u64| {
            sessions.beat(NodeId(node), Session { node_epoch: 7, heard: millis(at), ..Session::default() });
        };
        (1..=3).for_each(|node| beat(node, 1_000));
        sessions.lose(NodeId(1), 7, millis(1_050));
        let lost = |at: u64| sessions.lost(millis(at), millis(500), millis(600));
        assert_eq!(lost(1_500), []);
        assert_eq!(lost(1_600), [(NodeId(1), 7)]);
        assert_eq!(lost(1_700), [], "nobody was heard for a while: it is not the node that is gone");
        (2..=3).for_each(|node| beat(node, 1_700));
        assert_eq!(lost(1_700), [(NodeId(1), 7)]);
        beat(2, 2_500);
        assert_eq!(lost(2_500), [], "one of three is not most of them");
        (1..=3).for_each(|node| beat(node, 2_600));
        assert_eq!(lost(2_700), [], "it has come back");
        sessions.lose(NodeId(1), 6, millis(2_600));
        assert_eq!(lost(3_190), [], "that was an earlier incarnation");
    }

    #[test]
    fn a_node_is_out_of_sight_once_its_connection_breaks_or_it_misses_beats() {
        let sessions = Sessions::<()>::default();
        let second = Duration::from_secs(1);
        let beat = |node, heard| sessions.beat(NodeId(node), Session { node_epoch: 7, heard, ..Session::default() });
        (1..=3).for_each(|node| beat(node, second));
        sessions.lose(NodeId(1), 7, second);
        sessions.lose(NodeId(2), 6, second);
        let unseen = |now| sessions.out_of_sight(now, second).iter().map(|node| node.0).collect::<Vec<_>>();
        assert_eq!(unseen(second), [1], "that of node 2 is one of an earlier incarnation");
        assert_eq!(unseen(3 * second), [1, 2, 3]);
        beat(1, 3 * second);
        assert_eq!(unseen(3 * second), [2, 3]);
        sessions.beat(NodeId(4), Session { node_epoch: 7, heard: 3 * second, given: true, ..Session::default() });
        assert_eq!(unseen(3 * second), [2, 3, 4], "this controller has not heard it yet");
    }

    #[test]
    fn what_a_node_has_said_of_other_metadata_is_of_no_version() {
        let sessions = Sessions::<u8>::default();
        for node in [1, 2] {
            sessions.beat(NodeId(node), Session { node_epoch: 7, metadata_version: 9, ..Session::default() });
        }
        sessions.end(NodeId(2), 7);
        sessions.refuse(NodeId(1), ApiError::internal("what it has seen cannot be looked up"));
        assert_eq!(sessions.get(NodeId(1)).map(|said| said.metadata_version), Some(9), "nobody knows better");
        [1, 2, 3].into_iter().for_each(|node| sessions.refuse(NodeId(node), ApiError::metadata_rollback(9, 5)));
        assert_eq!(sessions.get(NodeId(1)).map(|said| said.metadata_version), Some(0));
        assert_eq!(sessions.said_last(NodeId(2)).map(|said| said.metadata_version), Some(0));
    }

    #[test]
    fn a_pause_of_the_controller_counts_for_no_session() {
        let sessions = Sessions::<()>::default();
        let second = Duration::from_secs(1);
        sessions.beat(NodeId(1), Session { node_epoch: 7, heard: second, ..Session::default() });
        // Nothing was heard for 20 s in which this process did not run, and then for 1 s.
        sessions.extend(20 * second, 21 * second);
        assert!(sessions.silent(22 * second, 2 * second).is_empty(), "its connection has time to come back");
        assert!(sessions.seen(NodeId(1), 7, 22 * second, 2 * second).is_some());
        assert_eq!(sessions.silent(24 * second, 2 * second), [(NodeId(1), 7)]);
        // A beat that had waited was taken before the pause was noticed.
        sessions.beat(NodeId(1), Session { node_epoch: 7, heard: 44 * second, ..Session::default() });
        sessions.extend(20 * second, 44 * second);
        assert_eq!(sessions.silent(47 * second, 2 * second), [(NodeId(1), 7)], "it was not heard in advance");
    }

    #[test]
    fn a_connection_that_broke_before_a_pause_of_the_controller_has_its_time_to_come_back() {
        let sessions = Sessions::<()>::default();
        let millis = Duration::from_millis;
        for node in 1..=3 {
            sessions.beat(NodeId(node), Session { node_epoch: 7, heard: millis(1_000), ..Session::default() });
        }
        sessions.lose(NodeId(1), 7, millis(1_100));
        sessions.extend(millis(20_000), millis(21_100));
        let lost = |at: u64| sessions.lost(millis(at), millis(500), millis(600));
        assert_eq!(lost(21_550), []);
        for node in 2..=3 {
            sessions.beat(NodeId(node), Session { node_epoch: 7, heard: millis(21_600), ..Session::default() });
        }
        assert_eq!(lost(21_610), [(NodeId(1), 7)]);
    }
}
