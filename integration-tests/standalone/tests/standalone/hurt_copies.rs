//! Copies of partitions that are damaged, or older than what their node has served.

use std::path::{Path, PathBuf};

use walser_client::Client;
use walser_proto::v1 as pb;

use crate::faults::until;
use crate::many::health;
use crate::replicated::{NODES, Nodes, all_in_sync, alone_in_sync, leader, leaderless, leads, partitions};
use crate::server::{cli_at, place, values, write};

/// The first segment of the only partition on a node.
pub(crate) fn segment(data: &Path) -> PathBuf {
    let logs = std::fs::read_dir(data.join("logs")).unwrap().map(|entry| entry.unwrap().path());
    logs.into_iter().find(|path| path.is_dir()).unwrap().join("00000000000000000000.log")
}

pub(crate) fn copy_dir(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        let (path, target) = (entry.path(), to.join(entry.file_name()));
        match path.is_dir() {
            true => copy_dir(&path, &target),
            false => assert!(std::fs::copy(path, target).is_ok()),
        }
    }
}

pub(crate) fn numbers(range: std::ops::Range<i32>) -> Vec<String> {
    range.map(|number| number.to_string()).collect()
}

pub(crate) async fn write_numbers(client: &Client, range: std::ops::Range<i32>) {
    for number in numbers(range) {
        write(client, "t", 0, number).await;
    }
}

/// Records that were durable on a node are gone.
fn cut(nodes: &Nodes, node: i32) {
    std::fs::File::options().write(true).open(segment(&nodes.data_of(node))).unwrap().set_len(500).unwrap();
}

/// Whether a command that loses records is done.
pub(crate) fn accepts_loss(nodes: &Nodes, command: &[&str]) -> bool {
    cli_at(&nodes.cluster.address(), &[command, &["--accept-loss"]].concat(), b"").status.success()
}

async fn repair(nodes: &Nodes) {
    until(async || accepts_loss(nodes, &["partition", "repair", "t", "0"]), "it is repaired").await;
}

/// Waits until the cluster says that a node has more than the leader, and that an election helps.
async fn told_of_more(client: &Client, node: i32) {
    let told = async || {
        let cluster = client.cluster().get_cluster(pb::GetClusterRequest {}).await.unwrap().into_inner().cluster;
        let says = |hint: &str| hint.contains(&format!("node {node} has more")) && hint.contains(ELECT);
        cluster.unwrap().health.unwrap().issues.iter().any(|issue| says(&issue.hint))
    };
    until(told, "it is known who has more").await;
}

/// The options of an election by which whoever has most leads.
const ELECT: &str = "--unclean --accept-loss";

/// A leader that alone is in sync, and damaged; the others are down, and have the numbers below `common`.
pub(crate) async fn with_damaged_leader(data: &Path, common: i32, end: i32) -> (Nodes, Client, i32) {
    let (mut nodes, client) = Nodes::with_topic(data, 1, 1).await;
    write_numbers(&client, 0..common).await;
    let damaged = leader(&client, "t").await;
    nodes.kill_others(damaged);
    alone_in_sync(&client, damaged).await;
    write_numbers(&client, common..end).await;
    nodes.kill(damaged);
    cut(&nodes, damaged);
    nodes.restart(damaged);
    leads(&client, damaged).await;
    (nodes, client, damaged)
}

/// Some of the first numbers are left, and not as many as there were.
fn assert_begins(left: &[String], before: i32) {
    let all = numbers(0..before);
    assert!(!left.is_empty() && left.len() < all.len() && left == &all[..left.len()], "{left:?}");
}

/// Has a node lead alone, and compares what it has.
async fn assert_alone_has(nodes: &mut Nodes, client: &Client, alone: i32, expected: &[String]) {
    nodes.kill_others(alone);
    leads(client, alone).await;
    assert_eq!(values(client, "t", 0).await, expected, "of node {alone}");
    nodes.restart_others(alone);
    all_in_sync(client, "t").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_is_found_damaged_at_a_start_takes_the_log_of_the_leader() {
    let (_dir, data) = place();
    let (mut nodes, client) = Nodes::with_topic(&data, 1, 2).await;
    write_numbers(&client, 0..20).await;
    for victim in [leader(&client, "t").await, leader(&client, "t").await % NODES + 1] {
        nodes.kill(victim);
        cut(&nodes, victim);
        until(async || partitions(&client, "t").await[0].isr.len() == 2, "it is out of the in-sync set").await;
        nodes.restart(victim);
        all_in_sync(&client, "t").await;
        assert_alone_has(&mut nodes, &client, victim, &numbers(0..20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_whose_records_are_found_damaged_follows_and_takes_the_log_of_another() {
    let (_dir, data) = place();
    let (mut nodes, client) = Nodes::with_topic(&data, 1, 2).await;
    write_numbers(&client, 0..20).await;
    let first = leader(&client, "t").await;
    // What was written lately is read from memory: the damage is met on the disk.
    nodes.stop(first);
    let file = segment(&nodes.data_of(first));
    let mut bytes = std::fs::read(&file).unwrap();
    bytes[120] ^= 0x55;
    std::fs::write(&file, bytes).unwrap();
    nodes.restart(first);
    all_in_sync(&client, "t").await;
    leads(&client, first).await;
    assert_eq!(values(&client, "t", 0).await, numbers(0..20), "another one has them");
    all_in_sync(&client, "t").await;
    assert_alone_has(&mut nodes, &client, first, &numbers(0..20)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_given_up_that_a_replica_has_or_may_have() {
    let (_dir, data) = place();
    let (mut nodes, client, repaired) = with_damaged_leader(&data, 10, 20).await;
    let refused = |nodes: &Nodes| {
        let refused = cli_at(&nodes.cluster.address(), &["partition", "repair", "t", "0", "--accept-loss"], b"");
        assert!(!refused.status.success());
        String::from_utf8(refused.stderr).unwrap()
    };
    assert!(refused(&nodes).contains("has not said what it has"), "both are down");
    let (first, second) = (repaired % NODES + 1, (repaired + 1) % NODES + 1);
    nodes.restart(second);
    until(async || refused(&nodes).contains(&format!("node {second} has records")), "it has more").await;
    nodes.kill(second);
    assert!(refused(&nodes).contains(&format!("node {second} has records")), "they are there, though it is down");

    // Whoever wants to give them up takes them away.
    std::fs::remove_dir_all(nodes.data_of(first)).unwrap();
    std::fs::remove_dir_all(segment(&nodes.data_of(second)).parent().unwrap()).unwrap();
    nodes.restart(first);
    nodes.restart(second);
    repair(&nodes).await;
    all_in_sync(&client, "t").await;
    let mut left = values(&client, "t", 0).await;
    assert_begins(&left, 10);
    write(&client, "t", 0, "after").await;
    left.push("after".to_owned());
    for alone in 1..=NODES {
        assert_alone_has(&mut nodes, &client, alone, &left).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_replica_is_the_last_resort_when_the_others_are_lost() {
    let (_dir, data) = place();
    let (mut nodes, client) = Nodes::with_topic(&data, 1, 2).await;
    write_numbers(&client, 0..20).await;
    let left = leader(&client, "t").await % NODES + 1;
    nodes.kill(left);
    until(async || partitions(&client, "t").await[0].isr.len() == 2, "it is out of the in-sync set").await;
    nodes.kill_others(left);
    until(async || leaderless(&client).await, "nobody is left").await;
    cut(&nodes, left);
    for lost in (1..=NODES).filter(|node| *node != left) {
        std::fs::remove_dir_all(nodes.data_of(lost)).unwrap();
    }
    nodes.restart(left);
    until(async || accepts_loss(&nodes, &["partition", "elect", "t", "0", "--unclean"]), "it is elected").await;
    assert_eq!(leader(&client, "t").await, left);
    assert!(!accepts_loss(&nodes, &["partition", "repair", "t", "0"]), "the others have not said what they have");
    nodes.restart_others(left);
    repair(&nodes).await;
    all_in_sync(&client, "t").await;
    let kept = values(&client, "t", 0).await;
    assert_begins(&kept, 20);
    for alone in 1..=NODES {
        assert_alone_has(&mut nodes, &client, alone, &kept).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_older_copy_of_a_directory_counts_for_nothing() {
    older_copy_counts_for_nothing(|older, data| {
        std::fs::remove_dir_all(data).unwrap();
        copy_dir(older, data);
    })
    .await;
}

/// Of a file system that is mounted there, say.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_older_copy_of_only_the_logs_counts_for_nothing() {
    older_copy_counts_for_nothing(|older, data| {
        std::fs::remove_dir_all(data.join("logs")).unwrap();
        copy_dir(&older.join("logs"), &data.join("logs"));
    })
    .await;
}

async fn older_copy_counts_for_nothing(put_back: impl Fn(&Path, &Path)) {
    let (dir, data) = place();
    let (mut nodes, client) = Nodes::with_topic(&data, 1, 1).await;
    write_numbers(&client, 0..5).await;
    let alone = leader(&client, "t").await;
    nodes.stop(alone);
    let (older, latest) = (dir.path().join("older"), dir.path().join("latest"));
    copy_dir(&nodes.data_of(alone), &older);
    nodes.restart(alone);
    all_in_sync(&client, "t").await;
    nodes.kill_others(alone);
    alone_in_sync(&client, alone).await;
    write_numbers(&client, 5..10).await;
    // What was the last that it has said of its directory says nothing of the one that comes.
    let (data, away) = (nodes.data_of(alone), dir.path().join("away"));
    std::fs::rename(&data, &away).unwrap();
    let failed = async || health(&client).await.issues.iter().any(|issue| issue.code == "DATA_DIRECTORY_FAILED");
    until(failed, "the status names its directory").await;
    nodes.stop(alone);
    std::fs::rename(&away, &data).unwrap();

    // In place of the only copy in sync it is refused, and nobody else leads.
    copy_dir(&data, &latest);
    put_back(&older, &data);
    let Err(printed) = nodes.cluster.try_another_node(alone) else { panic!("the node is taken") };
    assert!(printed.contains("is an older copy") && printed.contains("put the latest directory back"), "{printed}");
    let told = async || health(&client).await.issues.iter().any(|issue| issue.code == "DATA_ROLLBACK");
    until(told, "the status says why it is down").await;
    nodes.restart_others(alone);
    until(async || leaderless(&client).await, "nobody else leads").await;
    std::fs::remove_dir_all(&data).unwrap();
    std::fs::rename(&latest, &data).unwrap();
    nodes.restart(alone);
    all_in_sync(&client, "t").await;
    assert_eq!(values(&client, "t", 0).await, numbers(0..10));

    // Where others are in sync it takes from them what it does not have.
    nodes.stop(alone);
    put_back(&older, &data);
    nodes.restart(alone);
    all_in_sync(&client, "t").await;
    assert_alone_has(&mut nodes, &client, alone, &numbers(0..10)).await;
}

/// Changes a byte of a record on the disk of a node.
fn hurt(nodes: &Nodes, node: i32, value: &str) {
    let file = segment(&nodes.data_of(node));
    let mut bytes = std::fs::read(&file).unwrap();
    let at = bytes.windows(value.len()).position(|found| found == value.as_bytes()).unwrap();
    bytes[at] ^= 0x55;
    std::fs::write(&file, bytes).unwrap();
}

/// A read has met the damage that comes later, and nobody reaches beyond that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repair_knows_all_of_the_damage_before_it_gives_anything_up() {
    let (_dir, data) = place();
    let (mut nodes, client) = Nodes::with_topic(&data, 1, 1).await;
    let marked = |range: std::ops::Range<i32>| range.map(|number| format!("value-{number:03}")).collect::<Vec<_>>();
    let write_marked = async |range| {
        for value in marked(range) {
            write(&client, "t", 0, value).await;
        }
    };
    write_marked(0..20).await;
    all_in_sync(&client, "t").await;
    let damaged = leader(&client, "t").await;
    nodes.kill_others(damaged);
    alone_in_sync(&client, damaged).await;
    write_marked(20..30).await;
    nodes.stop(damaged);
    ["value-005", "value-025"].iter().for_each(|value| hurt(&nodes, damaged, value));
    nodes.restart(damaged);
    leads(&client, damaged).await;
    let address = nodes.cluster.address();
    let met = async || {
        let read =
            cli_at(&address, &["consume", "t", "-p", "0", "--from", "22", "--to", "latest", "--timeout", "2"], b"");
        !read.status.success()
    };
    until(met, "the later damage is met").await;
    nodes.restart_others(damaged);
    let refused = async || {
        let refused = cli_at(&address, &["partition", "repair", "t", "0", "--accept-loss"], b"");
        String::from_utf8_lossy(&refused.stderr).contains("has records of the partition that cannot be read")
    };
    until(refused, "others have what lies between").await;
    until(async || accepts_loss(&nodes, &["partition", "elect", "t", "0", "--unclean"]), "it is elected").await;
    all_in_sync(&client, "t").await;
    let kept = values(&client, "t", 0).await;
    assert!(kept.len() >= 20 && kept == marked(0..30)[..kept.len()], "{kept:?}");
}

/// Here the one that does not count has more than what is left of the one that does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_leader_steps_down_for_a_replica_that_has_more() {
    let (_dir, data) = place();
    let (mut nodes, client, damaged) = with_damaged_leader(&data, 20, 30).await;
    let with_more = damaged % NODES + 1;
    nodes.restart(with_more);
    told_of_more(&client, with_more).await;
    let refused = cli_at(&nodes.cluster.address(), &["partition", "repair", "t", "0", "--accept-loss"], b"");
    let printed = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && printed.contains(ELECT), "{printed}");

    let named = with_more.to_string();
    assert!(accepts_loss(&nodes, &["partition", "elect", "t", "0", "--unclean", "--node", &named]), "it is elected");
    leads(&client, with_more).await;
    assert_eq!(values(&client, "t", 0).await, numbers(0..20));
    write_numbers(&client, 20..25).await;
    nodes.restart(with_more % NODES + 1);
    all_in_sync(&client, "t").await;
    for alone in 1..=NODES {
        assert_alone_has(&mut nodes, &client, alone, &numbers(0..25)).await;
    }
}

/// While it waits for what the named node has. Its successor finds in the partition who is to lead.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_election_during_which_the_controller_dies_is_finished_by_the_next_one() {
    let (_dir, data) = place();
    let (mut nodes, client, damaged) = with_damaged_leader(&data, 20, 30).await;
    let named = damaged % NODES + 1;
    nodes.restart(named);
    told_of_more(&client, named).await;
    nodes.signal(named, "-STOP");
    let address = nodes.cluster.address();
    let id = named.to_string();
    let command = std::thread::spawn(move || {
        let elect = ["partition", "elect", "t", "0", "--unclean", "--accept-loss", "--node", &id];
        cli_at(&address, &elect, b"").status.success()
    });
    until(async || leaderless(&client).await, "the leader has stepped down").await;
    nodes.cluster.restart_controller();
    nodes.signal(named, "-CONT");
    leads(&client, named).await;
    command.join().unwrap();
    assert_eq!(values(&client, "t", 0).await, numbers(0..20));
    nodes.restart(named % NODES + 1);
    all_in_sync(&client, "t").await;
    assert_alone_has(&mut nodes, &client, damaged, &numbers(0..20)).await;
}

/// Nothing is left there with which a follower could compare its log, and nothing that could be copied.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_without_its_log_steps_down_when_one_that_has_everything_comes_back() {
    let (_dir, data) = place();
    let (mut nodes, client) = Nodes::with_topic(&data, 1, 2).await;
    write_numbers(&client, 0..20).await;
    let whole = leader(&client, "t").await;
    let (emptied, behind) = (whole % NODES + 1, (whole + 1) % NODES + 1);
    nodes.kill(behind);
    until(async || partitions(&client, "t").await[0].isr.len() == 2, "it is out of the in-sync set").await;
    write_numbers(&client, 20..30).await;
    nodes.kill(emptied);
    nodes.kill(whole);
    until(async || leaderless(&client).await, "nobody is left").await;
    std::fs::remove_dir_all(segment(&nodes.data_of(emptied)).parent().unwrap()).unwrap();
    nodes.restart(emptied);
    leads(&client, emptied).await;
    // One that has more than nothing, and not everything: what it has is not given up.
    nodes.restart(behind);
    told_of_more(&client, behind).await;
    assert!(!accepts_loss(&nodes, &["partition", "repair", "t", "0"]), "node {behind} has more");

    nodes.restart(whole);
    all_in_sync(&client, "t").await;
    assert_eq!(values(&client, "t", 0).await, numbers(0..30));
    assert_alone_has(&mut nodes, &client, emptied, &numbers(0..30)).await;
}

/// Its files stay open, and nobody reads or writes: what is written to them would be gone with the process.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_that_is_removed_while_its_files_are_open_is_missed_and_healed() {
    let (_dir, data) = place();
    let (nodes, client) = Nodes::with_settings(&data, &[("min.insync.replicas", "1")], &[]).await;
    write_numbers(&client, 0..2).await;
    let first = leader(&client, "t").await;
    for hurt in [(1..=NODES).find(|node| *node != first).unwrap(), first] {
        let dir = segment(&nodes.data_of(hurt)).parent().unwrap().to_owned();
        std::fs::remove_dir_all(&dir).unwrap();
        until(async || dir.join("00000000000000000000.log").exists(), "it is missed, and healed").await;
        all_in_sync(&client, "t").await;
    }
    assert_eq!(values(&client, "t", 0).await, numbers(0..2));
}

/// Somebody has removed it, while no file of it was open.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_that_is_removed_under_a_leader_and_a_follower_is_healed_from_the_others() {
    let (_dir, data) = place();
    let soon = ["storage.idle.ms=100"];
    let (mut nodes, client) = Nodes::with_settings(&data, &[("min.insync.replicas", "1")], &soon).await;
    write_numbers(&client, 0..1).await;
    for round in 0..4 {
        let first = leader(&client, "t").await;
        let hurt = if round % 2 == 0 { first } else { (1..=NODES).find(|node| *node != first).unwrap() };
        let dir = segment(&nodes.data_of(hurt)).parent().unwrap().to_owned();
        let fds = format!("/proc/{}/fd", nodes.pid(hurt));
        let open = || {
            let links =
                std::fs::read_dir(&fds).unwrap().filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok());
            links.into_iter().any(|path| path.starts_with(&dir))
        };
        until(async || !open(), "no file of the partition is open").await;
        std::fs::remove_dir_all(&dir).unwrap();
        write_numbers(&client, round + 1..round + 2).await;
        all_in_sync(&client, "t").await;
        until(async || dir.exists(), "the log is there again").await;
        assert_eq!(values(&client, "t", 0).await, numbers(0..round + 2));
        nodes.kill_others(hurt);
        leads(&client, hurt).await;
        assert_eq!(values(&client, "t", 0).await, numbers(0..round + 2));
        (1..=NODES).filter(|node| *node != hurt).for_each(|node| nodes.restart_with(node, &soon));
        all_in_sync(&client, "t").await;
    }
}

/// Each of the copies has lost another part: an election or a repair would end the log at one of them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_that_are_put_back_on_every_copy_are_sound_again_and_nothing_is_given_up() {
    let (_dir, data) = place();
    let (mut nodes, client) = Nodes::with_topic(&data, 1, 2).await;
    write_numbers(&client, 0..30).await;
    all_in_sync(&client, "t").await;
    (1..=NODES).for_each(|node| nodes.stop(node));
    let files: Vec<_> = (1..=NODES).map(|node| segment(&nodes.data_of(node))).collect();
    let whole: Vec<_> = files.iter().map(|file| std::fs::read(file).unwrap()).collect();
    for (file, len) in files.iter().zip([500, 900, 1_300]) {
        std::fs::File::options().write(true).open(file).unwrap().set_len(len).unwrap();
    }
    (1..=NODES).for_each(|node| nodes.restart(node));
    let is_noted = |file: &PathBuf| {
        let mut names = std::fs::read_dir(file.parent().unwrap()).unwrap().map(|entry| entry.unwrap().file_name());
        names.any(|name| name.to_string_lossy().starts_with("damaged-from-"))
    };
    until(async || files.iter().all(is_noted), "all of them say that they are damaged").await;
    (1..=NODES).for_each(|node| nodes.kill(node));
    for (file, bytes) in files.iter().zip(&whole) {
        std::fs::write(file, bytes).unwrap();
    }
    (1..=NODES).for_each(|node| nodes.restart(node));
    all_in_sync(&client, "t").await;
    assert_eq!(values(&client, "t", 0).await, numbers(0..30));
    for alone in 1..=NODES {
        assert_alone_has(&mut nodes, &client, alone, &numbers(0..30)).await;
    }
}

/// A disk that cannot be read is no reason to wait: somebody else has the records.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_whose_disk_fails_in_a_read_gives_the_lead_to_another() {
    let (_dir, data) = place();
    let (mut nodes, client) = Nodes::with_settings(&data, &[("segment.bytes", "16KiB")], &[]).await;
    let long =
        |range: std::ops::Range<i32>| -> Vec<String> { range.map(|number| format!("{number:0>1000}")).collect() };
    for value in long(0..60) {
        write(&client, "t", 0, value).await;
    }
    let first = leader(&client, "t").await;
    nodes.stop(first);
    let (file, saved) = (segment(&nodes.data_of(first)), data.join("saved"));
    std::fs::rename(&file, &saved).unwrap();
    // Opening it works, and reading it does not.
    std::fs::create_dir(&file).unwrap();
    nodes.restart(first);
    all_in_sync(&client, "t").await;
    leads(&client, first).await;
    assert_eq!(values(&client, "t", 0).await, long(0..60), "another one has them");
    let problem = async || health(&client).await.issues.iter().any(|issue| issue.code == "REPLICA_OUT_OF_SERVICE");
    until(problem, "the cluster says so").await;
    write(&client, "t", 0, long(60..61).remove(0)).await;
    nodes.stop(first);
    std::fs::remove_dir(&file).unwrap();
    std::fs::rename(&saved, &file).unwrap();
    nodes.restart(first);
    all_in_sync(&client, "t").await;
    assert_alone_has(&mut nodes, &client, first, &long(0..61)).await;
}
