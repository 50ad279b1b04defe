//! Two controllers that share their metadata in etcd, and what becomes of records while one of them, or etcd, is away.
//! `WALSER_ETCD` names the program of etcd; `scripts/test.sh` builds it.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use tokio::time::Instant;
use walser_client::Client;
use walser_proto::v1 as pb;

use crate::cluster_up::{Up, with_etcd};
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
        let up = Up::start_with(dir, &with_etcd(members));
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

    /// The one that has not.
    fn standby(&self) -> String {
        if self.active() == "1" { "2" } else { "1" }.to_owned()
    }

    /// What etcd's own client says of a member.
    fn etcdctl(&self, member: i64, arguments: &[&str]) -> String {
        let program = PathBuf::from(std::env::var("WALSER_ETCD").unwrap()).with_file_name("etcdctl");
        let endpoint = format!("http://{}", self.up.address("etcd", member, "client"));
        let output = Command::new(program).args(["--endpoints", &endpoint]).args(arguments).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// What a member says of itself.
    fn etcd_status(&self, member: i64) -> serde_json::Value {
        let printed = self.etcdctl(member, &["endpoint", "status", "-w", "json"]);
        serde_json::from_str::<serde_json::Value>(&printed).unwrap()[0]["Status"].clone()
    }

    /// Has the first member refuse every write, as one whose quota is used up does, or take them again.
    fn out_of_space(&self, out: bool) {
        if !out {
            self.etcdctl(1, &["alarm", "disarm"]);
            return;
        }
        let member = &self.etcd_status(1)["header"]["member_id"];
        let alarm = format!("{{\"action\":\"ACTIVATE\",\"alarm\":\"NOSPACE\",\"memberID\":\"{member}\"}}");
        let address = self.up.address("etcd", 1, "client");
        let mut stream = TcpStream::connect(&address).unwrap();
        let head = format!("POST /v3/maintenance/alarm HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n");
        write!(stream, "{head}Content-Length: {}\r\n\r\n{alarm}", alarm.len()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }

    /// Whether the first member has a key of a family.
    fn has_key_of(&self, family: &str) -> bool {
        let prefix = format!("/walser/keys/{family}/");
        self.etcdctl(1, &["get", &prefix, "--prefix", "--keys-only"]).contains(&prefix)
    }

    /// Has a command begin, and kills the controller that leads as soon as the metadata shows what was begun.
    async fn kill_during(&self, family: &str, command: &[&str]) {
        let (server, owned) = (self.up.server(), command.iter().map(|part| (*part).to_owned()).collect::<Vec<_>>());
        let command = std::thread::spawn(move || {
            cli_at(&server, &owned.iter().map(String::as_str).collect::<Vec<_>>(), b"");
        });
        until(async || self.has_key_of(family) || command.is_finished(), "it is begun").await;
        self.up.act_ok(&["kill", "controller", &self.active()]);
        self.up.act_ok(&["start", "controller"]);
        command.join().unwrap();
    }

    /// The member of etcd that leads, of three.
    fn etcds_leader(&self) -> String {
        let leads = |member: &i64| {
            let status = self.etcd_status(*member);
            status["leader"] == status["header"]["member_id"]
        };
        (1..=3).find(leads).unwrap().to_string()
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_etcd_without_space_is_named_and_controllers_that_start_wait_for_it() {
    let (_place, dir) = place();
    let cluster = Shared::start(&dir, "1").await;
    cluster.out_of_space(true);
    let named = async || {
        let issues = cluster.issues().await;
        let codes: Vec<_> = issues.iter().map(|issue| issue.code.as_str()).collect();
        codes == ["METADATA_STORE_UNAVAILABLE"] && issues[0].message.contains("NOSPACE")
    };
    until(named, "one issue says that etcd has no space").await;
    write(&cluster.client, "t", 0, "meanwhile").await;
    // The other controller cannot take over, and says why.
    cluster.up.act_ok(&["kill", "controller", &cluster.active()]);
    let told = async || {
        let shown = cli_at(&cluster.up.server(), &["status"], b"");
        !shown.status.success() && format!("{shown:?}").contains("NOSPACE")
    };
    until(told, "status says why no controller leads").await;
    // None of those that start ends, and none is ready.
    cluster.up.act_ok(&["kill", "controller", &cluster.standby()]);
    let begins = cluster.logs().map(|log| log.len());
    let starting = cluster.up.command(&["start", "controller"]).stderr(Stdio::piped()).spawn().unwrap();
    let wait = async || cluster.logs().iter().zip(begins).all(|(log, begin)| log[begin..].contains("NOSPACE"));
    until(wait, "both say what they wait for").await;
    write(&cluster.client, "t", 0, "later").await;
    cluster.out_of_space(false);
    let started = starting.wait_with_output().unwrap();
    assert!(started.status.success(), "{started:?}");
    cluster.until_led("after-there-was-space").await;
    until(async || cluster.issues().await.is_empty(), "all is well").await;
    assert_eq!(values(&cluster.client, "t", 0).await, ["meanwhile", "later"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_of_etcd_that_has_lost_its_data_or_its_address_is_not_said_to_run() {
    let (_place, dir) = place();
    let cluster = Shared::start(&dir, "3").await;
    let (data, aside) = (dir.join("etcd-2"), dir.join("aside"));
    cluster.up.act_ok(&["kill", "etcd", "2"]);
    std::fs::rename(&data, &aside).unwrap();
    let started = cluster.up.act(&["start", "etcd", "2"]);
    let said = String::from_utf8_lossy(&started.stderr);
    assert!(!started.status.success() && said.contains("etcd 2 has not come up: "), "{said}");
    assert!(!data.exists(), "it was started as a new member");
    std::fs::rename(&aside, &data).unwrap();
    let stranger = std::net::TcpListener::bind(cluster.up.address("etcd", 2, "client")).unwrap();
    let started = cluster.up.act(&["start", "etcd", "2"]);
    let said = String::from_utf8_lossy(&started.stderr);
    assert!(!started.status.success() && said.contains("another process listens on"), "{said}");
    drop(stranger);
    // One alone finds no leader, and runs nevertheless.
    cluster.up.act_ok(&["kill", "etcd"]);
    ["2", "1", "3"].iter().for_each(|member| cluster.up.act_ok(&["start", "etcd", member]));
    cluster.until_led("all-are-back").await;
}

/// Nothing is missing to records in the meantime.
async fn flows(load: &Load, seconds: usize) {
    let all: Vec<i32> = (0..PARTITIONS).collect();
    // One after the other: a busy machine has as much time for each as there is.
    for _ in 0..seconds {
        load.go_on(&all, Instant::now(), SECOND).await;
    }
}

async fn whole(client: &Client) -> bool {
    partitions(client, "t").await.iter().all(|found| found.isr.len() == 3)
}

/// The pauses of writes while a leader is killed with the controller that leads, and with the leader of etcd, too, where it
/// has three members.
async fn pauses_of_kills(cluster: &Shared, load: &Load, with_etcd: bool) -> Vec<Duration> {
    let client = &cluster.client;
    let all: Vec<i32> = (0..PARTITIONS).collect();
    let mut gaps = Vec::new();
    for round in 0..times() {
        let victim = i32::try_from(round).unwrap() % 3 + 1;
        preferred_lead(client, all.len()).await;
        load.go_on(&all, Instant::now(), 20).await;
        let (counted, active) = (led_by(client, victim, true).await, cluster.active());
        let member = if with_etcd { cluster.etcds_leader() } else { String::new() };
        let since = Instant::now();
        if with_etcd {
            cluster.up.act_ok(&["kill", "etcd", &member]);
        }
        cluster.up.act_ok(&["kill", "controller", &active]);
        cluster.up.act_ok(&["kill", "storage-node", &victim.to_string()]);
        load.go_on(&counted, since + Duration::from_millis(100), 50).await;
        gaps.push(load.gap(&counted, since));
        cluster.up.act_ok(&["start"]);
        all_in_sync(client, "t").await;
    }
    gaps
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_15_the_leader_of_etcd_is_killed_with_a_leader_and_the_controller_that_leads() {
    let (_place, dir) = place();
    let cluster = Shared::start(&dir, "3").await;
    let load = Load::start(&cluster.client).await;
    let gaps = pauses_of_kills(&cluster, &load, true).await;
    let (count, records) = (gaps.len(), load.judge(&cluster.client).await);
    let pauses = summary(gaps);
    let text = format!("{count} x the same, and of etcd's leader; pause {pauses}; {records} records, 0 lost");
    verdict(15, &text);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_15_the_controller_that_leads_is_killed_with_a_leader_suspended_and_away() {
    let (_place, dir) = place();
    let cluster = Shared::start(&dir, "1").await;
    let client = &cluster.client;
    let load = Load::start(client).await;
    let gaps = pauses_of_kills(&cluster, &load, false).await;
    // One that hangs and does not lead is missed by nobody.
    let (hanging, victim) = (cluster.standby(), 1);
    cluster.up.act_ok(&["pause", "controller", &hanging]);
    preferred_lead(client, PARTITIONS.unsigned_abs() as usize).await;
    load.go_on(&(0..PARTITIONS).collect::<Vec<_>>(), Instant::now(), 20).await;
    let counted = led_by(client, victim, true).await;
    let since = Instant::now();
    cluster.up.act_ok(&["kill", "storage-node", &victim.to_string()]);
    load.go_on(&counted, since + Duration::from_millis(100), 50).await;
    let ordinary = summary(vec![load.gap(&counted, since)]);
    cluster.up.act_ok(&["resume", "controller", &hanging]);
    cluster.up.act_ok(&["start"]);
    all_in_sync(client, "t").await;
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
            "{count} x kill -9 of a leader and the controller that leads; pause {pauses}; of a leader while the standby \
             hangs {ordinary}; {records} records, 0 lost"
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
    let told = async || cluster.issues().await.iter().any(|issue| issue.code == "METADATA_STORE_DEGRADED");
    let load = Load::start(client).await;
    for member in ["1", "2", "3"] {
        cluster.up.act_ok(&["kill", "etcd", member]);
        cluster.until_led(&format!("without-member-{member}")).await;
        if member == "1" {
            until(told, "it is said that a member is away").await;
        }
        cluster.up.act_ok(&["start", "etcd", member]);
    }
    cluster.up.act_ok(&["kill", "etcd", "1"]);
    cluster.up.act_ok(&["kill", "etcd", "2"]);
    until(told, "it is said that members are away, also where no controller leads for that").await;
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

/// Partitions that a node leaves, and gets back: more where only this is tested.
fn many() -> i32 {
    if std::env::var("WALSER_FAULTS").is_ok() { 5_000 } else { 500 }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_16_a_controller_that_dies_while_it_takes_a_node_out_of_its_partitions_has_a_successor() {
    let (_place, dir) = place();
    let cluster = Shared::start(&dir, "1").await;
    let client = &cluster.client;
    create_replicated(client, "many", many(), 2).await;
    all_in_sync_of(client, "many", many()).await;
    let load = Load::start(client).await;
    let victim = 2;
    let left = async || {
        let partitions = all_partitions(client, "many").await;
        (partitions.iter().filter(|found| !found.isr.contains(&victim)).count(), partitions.len())
    };
    cluster.up.act_ok(&["kill", "storage-node", &victim.to_string()]);
    until(async || left().await.0 > 0, "the node leaves its partitions").await;
    cluster.up.act_ok(&["kill", "controller", &cluster.active()]);
    let (before, _) = left().await;
    cluster.up.act_ok(&["start", "storage-node"]);
    cluster.up.act_ok(&["start", "controller"]);
    cluster.until_led("after-the-sweep").await;
    all_in_sync(client, "t").await;
    all_in_sync_of(client, "many", many()).await;
    flows(&load, 1).await;
    for partition in [0, many() / 2, many() - 1] {
        write(client, "many", partition, "there").await;
    }
    // So have topics that are being made and deleted.
    let made = many() / 5 + 200;
    cluster.kill_during("staged", &["topic", "create", "made", "--partitions", &made.to_string()]).await;
    all_in_sync_of(client, "made", made).await;
    cluster.kill_during("deleting", &["topic", "delete", "made", "--yes"]).await;
    until(async || !cluster.has_key_of("deleting"), "the deletion is finished").await;
    until(async || cluster.makes("made"), "the name is free").await;
    let records = load.judge(client).await;
    let count = many();
    verdict(
        16,
        &format!("the controller dies when a node has left {before} of {count} partitions; {records} records, 0 lost"),
    );
}

/// All partitions of a topic with more than one page of them.
async fn all_partitions(client: &Client, topic: &str) -> Vec<pb::Partition> {
    let (mut all, mut page_token) = (Vec::new(), String::new());
    loop {
        let request =
            pb::ListPartitionsRequest { topic: topic.to_owned(), page_size: 1000, page_token, ..Default::default() };
        let Ok(page) = client.topics().list_partitions(request).await else { return Vec::new() };
        let page = page.into_inner();
        all.extend(page.partitions.into_iter().filter_map(|listed| listed.partition));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return all;
        }
    }
}

async fn all_in_sync_of(client: &Client, topic: &str, count: i32) {
    let whole = async || {
        let partitions = all_partitions(client, topic).await;
        partitions.len() == count.unsigned_abs() as usize && partitions.iter().all(|found| found.isr.len() == 3)
    };
    until(whole, "every replica of every partition is in sync").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_18_etcd_hangs_and_what_it_forgets_while_a_controller_hangs_is_not_missed() {
    let (_place, dir) = place();
    let cluster = Shared::start(&dir, "1").await;
    let client = &cluster.client;
    let load = Load::start(client).await;
    let standby = cluster.standby();
    cluster.up.act_ok(&["pause", "controller", &standby]);
    let names: Vec<_> = (0..20).map(|number| format!("in-the-gap-{number}")).collect();
    for name in &names {
        cluster.until_led(name).await;
    }
    let deleted = cli_at(&cluster.up.server(), &["topic", "delete", &names[0], "--yes"], b"");
    assert!(deleted.status.success(), "{}", String::from_utf8_lossy(&deleted.stderr));
    let revision = cluster.etcd_status(1)["header"]["revision"].to_string();
    cluster.etcdctl(1, &["compact", &revision, "--physical"]);
    // Its watch ends, and cannot go on where it was.
    cluster.up.act_ok(&["kill", "etcd", "1"]);
    cluster.up.act_ok(&["start", "etcd", "1"]);
    cluster.up.act_ok(&["pause", "etcd"]);
    flows(&load, seconds(5)).await;
    cluster.up.act_ok(&["resume", "etcd"]);
    cluster.until_led("after-etcd-hung").await;

    let active = cluster.active();
    cluster.up.act_ok(&["resume", "controller", &standby]);
    let other = if active == standby { cluster.standby() } else { active };
    cluster.up.act_ok(&["kill", "controller", &other]);
    cluster.until_led("led-by-the-other").await;
    assert_eq!(cluster.active(), standby);
    let listed = cli_at(&cluster.up.server(), &["topic", "list", "-o", "name"], b"");
    let listed = String::from_utf8(listed.stdout).unwrap();
    for name in names.iter().skip(1) {
        assert!(listed.lines().any(|line| line == name), "{name} is missed: {listed}");
        write(client, name, 0, "there").await;
    }
    assert!(!listed.lines().any(|line| *line == names[0]), "it is deleted");
    let made = cluster.makes(&names[0]);
    assert!(made, "its name is free");
    cluster.up.act_ok(&["start", "controller"]);
    all_in_sync(client, "t").await;
    let records = load.judge(client).await;
    verdict(
        18,
        &format!("20 topics come and one goes while a controller hangs and etcd forgets it; {records} records, 0 lost"),
    );
}

/// Whether a node does not obey the metadata.
fn refuses(issue: &pb::HealthIssue, node: i32) -> bool {
    issue.code == "METADATA_ROLLBACK" && issue.message.starts_with(&format!("storage node {node} "))
}
