//! The store in etcd passes the suite on three members, and what is particular to it: members that die or hang, tokens that
//! end, answers that do not come.
//!
//! `WALSER_ETCD` names the program; `scripts/etcd.sh` builds it.

#![allow(clippy::unwrap_used, reason = "a test that fails says where")]

#[path = "conformance/suite.rs"]
mod suite;

#[path = "etcd/cluster.rs"]
mod cluster;
#[path = "etcd/faults.rs"]
mod faults;
#[path = "etcd/member.rs"]
mod member;

use std::sync::{Arc, LazyLock, Weak};

use tokio::sync::{Mutex, OwnedMutexGuard};

use self::cluster::Cluster;
use self::suite::{Fixture, Store};

/// Three members, for all cases; they end with the last one.
struct ThreeMembers;

impl Fixture for ThreeMembers {
    type Guard = (Arc<Cluster>, OwnedMutexGuard<()>);

    async fn open() -> (Store, Self::Guard) {
        static SHARED: LazyLock<Mutex<Weak<Cluster>>> = LazyLock::new(Mutex::default);
        static TURN: LazyLock<Arc<Mutex<()>>> = LazyLock::new(Arc::default);
        let cluster = {
            let mut shared = SHARED.lock().await;
            match shared.upgrade() {
                Some(cluster) => cluster,
                None => {
                    let cluster = Arc::new(Cluster::start(3, &[]).await);
                    *shared = Arc::downgrade(&cluster);
                    cluster
                }
            }
        };
        let turn = Arc::clone(&TURN).lock_owned().await;
        (Arc::new(cluster.store("/suite/")), (cluster, turn))
    }
}

suite::conformance!(three_members, ThreeMembers);
