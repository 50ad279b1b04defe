//! Two controllers that share their metadata in etcd, and what becomes of records while one of them, or etcd, is away.
//! `WALSER_ETCD` names the program of etcd; `scripts/test.sh` builds it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::Instant;
use walser_client::Client;
use walser_proto::v1 as pb;

use crate::cluster_up::Up;
use crate::fault_rows::{led_by, times, verdict};
use crate::faults::until;
use crate::hurt_copies::copy_dir;
use crate::load::{Load, PARTITIONS, summary};
use crate::replicated::{all_in_sync, create_replicated, partitions, preferred_lead};
use crate::server::{cli_at, place, values, write};

/// Acknowledgements of a partition that take about a second.
const SECOND: usize = 80;

/// A cluster whose controllers share members of etcd.
struct Shared {
    up: Up,
    dir: PathBuf,
    client: Client,
}

impl Shared {
    async fn start(dir: &Path, members: &str) -> Self {
        let etcd = std::env::var("WALSER_ETCD").expect("WALSER_ETCD names no etcd; `scripts/etcd.sh` builds one");
        let more = ["--metastore", "etcd", "--etcd", &etcd, "--etcd-members", members, "--controllers", "2"];
        let up = Up::start_with(dir, &more);
        let client = up.client();
        create_replicated(&client, "t", PARTITIONS, 2).await;
        all_in_sync(&client, "t").await;
        Self { up, dir: dir.to_owned(), client }
    }

    /// Of each controller what its log has.
    fn logs(&self) -> [String; 2] {
        [1, 2].map(|id| std::fs::read_to_string(self.dir.join(format!("controller-{id}.log"))).unwrap())
    }

    /// The controller that has won the latest election.
    fn active(&self) -> String {
        let epoch = |log: &String| {
            let won = log.lines().rfind(|line| line.contains("this controller leads"))?;
            won.split("\"controller_epoch\":").nth(1)?.split(['}', ',']).next()?.parse::<i64>().ok()
        };
        let [first, second] = self.logs();
        if epoch(&first) > epoch(&second) { "1" } else { "2" }.to_owned()
    }

    fn fenced(&self) -> usize {
        self.logs().iter().map(|log| log.matches("node fenced").count()).sum()
    }

    /// Waits until there is a controller that can make this topic.
    async fn until_led(&self, topic: &str) {
        until(async || self.makes(topic), "a controller leads").await;
    }

    async fn issues(&self) -> Vec<pb::HealthIssue> {
        let found = self.client.cluster().get_cluster(pb::GetClusterRequest {}).await;
        found.ok().and_then(|found| found.into_inner().cluster?.health).unwrap_or_default().issues
    }

    fn makes(&self, topic: &str) -> bool {
        cli_at(&self.up.server(), &["topic", "create", topic, "--if-not-exists"], b"").status.success()
    }
}

/// Nothing is missing to records in the meantime.
async fn flows(load: &Load, seconds: usize) {
    let all: Vec<i32> = (0..PARTITIONS).collect();
    load.go_on(&all, Instant::now(), seconds * SECOND).await;
}

async fn whole(client: &Client) -> bool {
    partitions(client, "t").await.iter().all(|found| found.isr.len() == 3)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_15_the_controller_that_leads_is_killed_with_a_leader_suspended_and_away() {
    let (_place, dir) = place();
    let cluster = Shared::start(&dir, "1").await;
    let client = &cluster.client;
    let load = Load::start(client).await;
    let all: Vec<i32> = (0..PARTITIONS).collect();
    let mut gaps = Vec::new();
    for round in 0..times() {
        let victim = i32::try_from(round).unwrap() % 3 + 1;
        preferred_lead(client, all.len()).await;
        load.go_on(&all, Instant::now(), 20).await;
        let (counted, active) = (led_by(client, victim, true).await, cluster.active());
        let since = Instant::now();
        cluster.up.act_ok(&["kill", "controller", &active]);
        cluster.up.act_ok(&["kill", "storage-node", &victim.to_string()]);
        load.go_on(&counted, since + Duration::from_millis(100), 50).await;
        gaps.push(load.gap(&counted, since));
        cluster.up.act_ok(&["start"]);
        all_in_sync(client, "t").await;
    }
    // One that does not run for a while, and does not know, fences nobody, and does not lead beside another one.
    let fenced = cluster.fenced();
    let active = cluster.active();
    cluster.up.act_ok(&["pause", "controller", &active]);
    flows(&load, 3).await;
    cluster.up.act_ok(&["resume", "controller", &active]);
    cluster.until_led("after-a-pause").await;
    cluster.up.act_ok(&["pause", "controller", &cluster.active()]);
    cluster.until_led("while-one-is-paused").await;
    cluster.up.act_ok(&["resume", "controller"]);
    flows(&load, 1).await;
    cluster.up.act_ok(&["kill", "controller"]);
    flows(&load, seconds(6)).await;
    cluster.up.act_ok(&["start", "controller"]);
    cluster.until_led("after-all-were-away").await;
    assert_eq!(cluster.fenced(), fenced, "all nodes were there all the time");
    all_in_sync(client, "t").await;
    let (count, records) = (gaps.len(), load.judge(client).await);
    let pauses = summary(gaps);
    verdict(
        15,
        &format!(
            "{count} x kill -9 of a leader and the controller that leads; pause {pauses}; {records} records, 0 lost"
        ),
    );
}

/// How long something is away: shorter where everything is tested.
fn seconds(few: usize) -> usize {
    if std::env::var("WALSER_FAULTS").is_ok() { 30 } else { few }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_17_records_flow_while_etcd_is_away_and_nobody_leaves_an_in_sync_set() {
    let (_place, dir) = place();
    let cluster = Shared::start(&dir, "3").await;
    let client = &cluster.client;
    let load = Load::start(client).await;
    for member in ["1", "2", "3"] {
        cluster.up.act_ok(&["kill", "etcd", member]);
        cluster.until_led(&format!("without-member-{member}")).await;
        if member == "1" {
            let told = async || cluster.issues().await.iter().any(|issue| issue.code == "METADATA_STORE_DEGRADED");
            until(told, "it is said that a member is away").await;
        }
        cluster.up.act_ok(&["start", "etcd", member]);
    }
    cluster.up.act_ok(&["kill", "etcd", "1"]);
    cluster.up.act_ok(&["kill", "etcd", "2"]);
    flows(&load, seconds(5)).await;
    assert!(whole(client).await);
    cluster.up.act_ok(&["start", "etcd"]);
    cluster.until_led("after-the-quorum-was-lost").await;
    cluster.up.act_ok(&["pause", "etcd"]);
    flows(&load, seconds(5)).await;
    assert!(whole(client).await);
    cluster.up.act_ok(&["resume", "etcd"]);
    cluster.until_led("after-etcd-was-paused").await;
    flows(&load, 1).await;
    assert_eq!(cluster.fenced(), 0, "all nodes were there all the time");
    assert!(whole(client).await);
    let records = load.judge(client).await;
    verdict(17, &format!("etcd without each member, without two, and paused; {records} records, 0 lost"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_19_an_older_copy_of_etcd_is_refused_and_nothing_is_deleted() {
    let (_place, dir) = place();
    let cluster = Shared::start(&dir, "1").await;
    let client = &cluster.client;
    let (data, copy) = (dir.join("etcd-1"), dir.join("copy"));
    write(client, "t", 0, "before").await;
    cluster.up.act_ok(&["stop", "etcd"]);
    copy_dir(&data, &copy);
    cluster.up.act_ok(&["start", "etcd"]);
    for number in 0..20 {
        cluster.until_led(&format!("later-{number}")).await;
    }
    write(client, "t", 0, "after").await;
    write(client, "later-7", 0, "later").await;
    cluster.up.act_ok(&["stop", "etcd"]);
    std::fs::remove_dir_all(&data).unwrap();
    std::fs::rename(&copy, &data).unwrap();
    cluster.up.act_ok(&["start", "etcd"]);

    // The controllers end when they see it, as they would be started again elsewhere.
    let ended = async || cluster.logs().iter().all(|log| log.contains("an older copy of the metadata is in the store"));
    until(ended, "the controllers have seen it").await;
    until(async || cluster.up.are_down("controller"), "and have ended").await;
    cluster.up.act_ok(&["start", "controller"]);
    for node in 1..=3 {
        let refused = async || cluster.issues().await.iter().any(|issue| refuses(issue, node));
        until(refused, "every node has seen that the metadata is older").await;
    }
    let refused = cli_at(&cluster.up.server(), &["topic", "create", "refused"], b"");
    assert!(!refused.status.success(), "nothing is changed before that is settled");
    let accepts = async || cli_at(&cluster.up.server(), &["metadata", "accept-restore", "--yes"], b"").status.success();
    until(accepts, "it is accepted").await;
    all_in_sync(client, "t").await;
    until(async || cluster.makes("accepted"), "everything is as it was").await;
    assert_eq!(values(client, "t", 0).await, ["before", "after"]);
    let kept = async || cluster.issues().await.iter().any(|issue| issue.code == "DATA_SET_ASIDE");
    until(kept, "what the copy does not know is kept").await;
    verdict(19, "an older copy of etcd is refused, and nothing is deleted");
}

/// Whether a node does not obey the metadata.
fn refuses(issue: &pb::HealthIssue, node: i32) -> bool {
    issue.code == "METADATA_ROLLBACK" && issue.message.starts_with(&format!("storage node {node} "))
}
