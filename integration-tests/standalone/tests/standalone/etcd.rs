//! A cluster whose metadata is in etcd. `WALSER_ETCD` names the program; `scripts/test.sh` builds it.

#[path = "../../../../libs/metastore/tests/etcd/member.rs"]
mod member;

use self::member::{Member, Place};
use crate::faults::until;
use crate::processes::Cluster;
use crate::server::{cli_at, create, place, values, write};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn topics_in_etcd_outlive_the_controller_and_records_flow_without_etcd() {
    let (_dir, data) = place();
    let at = Place::free("http");
    let mut etcd = Member::start(&data.join("etcd"), "m0", &at, &format!("m0={}", at.peer), &[]);
    let settings = vec!["controller.metastore=etcd".to_owned(), format!("controller.etcd.endpoints={}", etcd.client)];
    let mut cluster = Cluster::start_with(&data, settings);
    let client = cluster.client();
    create(&client, "t", 2, &[]).await;
    write(&client, "t", 0, "1").await;

    cluster.restart_controller();
    write(&client, "t", 0, "2").await;
    until(async || create_again(&cluster, "after-the-controller"), "the next controller knows the cluster").await;

    etcd.kill();
    write(&client, "t", 0, "3").await;
    assert_eq!(values(&client, "t", 0).await, ["1", "2", "3"]);
    assert!(!create_again(&cluster, "without-etcd"), "there is nowhere to write it");
    etcd.restart();
    until(async || create_again(&cluster, "after-etcd"), "the controller finds etcd again").await;

    // Of the data directory of the controller nothing is needed.
    cluster.change_metadata(|data| assert!(!data.exists()));
    cluster.kill_storage();
    cluster.start_storage();
    until(async || create_again(&cluster, "after-all"), "everything is there again").await;
    assert_eq!(values(&client, "t", 0).await, ["1", "2", "3"]);
}

/// Whether a topic is there, or can be made.
fn create_again(cluster: &Cluster, name: &str) -> bool {
    let made = cli_at(&cluster.address(), &["topic", "create", name, "--if-not-exists"], b"");
    made.status.success()
}
