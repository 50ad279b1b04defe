//! A small set of nodes.

use walser_model::NodeId;

/// Nodes, ascending. As many as a partition has replicas, so a sorted list is the fastest set.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeSet(Vec<NodeId>);

impl NodeSet {
    /// The set without a node.
    pub const EMPTY: Self = Self(Vec::new());

    /// Whether `node` is in it.
    pub fn contains(&self, node: NodeId) -> bool {
        self.0.contains(&node)
    }

    /// Adds a node. False: it was there.
    pub fn insert(&mut self, node: NodeId) -> bool {
        match self.0.binary_search(&node) {
            Ok(_) => false,
            Err(at) => {
                self.0.insert(at, node);
                true
            }
        }
    }

    /// Takes a node out. False: it was not there.
    pub fn remove(&mut self, node: NodeId) -> bool {
        let found = self.0.binary_search(&node);
        if let Ok(at) = found {
            self.0.remove(at);
        }
        found.is_ok()
    }

    /// Returns the number of nodes.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All of them, ascending.
    pub fn iter(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.0.iter().copied()
    }

    /// This set with another one.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        let mut all = self.clone();
        for node in other.iter() {
            all.insert(node);
        }
        all
    }

    /// This set without another one.
    #[must_use]
    pub fn without(&self, other: &Self) -> Self {
        self.iter().filter(|node| !other.contains(*node)).collect()
    }

    /// What is in both.
    #[must_use]
    pub fn intersection(&self, other: &Self) -> Self {
        self.iter().filter(|node| other.contains(*node)).collect()
    }

    /// Whether all of it is in another one.
    pub fn is_subset(&self, other: &Self) -> bool {
        self.iter().all(|node| other.contains(node))
    }
}

impl FromIterator<NodeId> for NodeSet {
    fn from_iter<I: IntoIterator<Item = NodeId>>(nodes: I) -> Self {
        let mut nodes: Vec<NodeId> = nodes.into_iter().collect();
        nodes.sort_unstable();
        nodes.dedup();
        Self(nodes)
    }
}
