//! The member of the README, three times, from stubs that stock tools have generated.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use walser_client::Client;

use crate::generated_client::{blocks, python_stubs, run, tool};
use crate::group_member::Member;
use crate::server::{PATIENCE, Server, create, place, wait_a_little, write};

pub(crate) const PARTITIONS: i32 = 6;
pub(crate) const ROUND: i64 = 40;

/// A member in a process of its own, which prints what it processes.
pub(crate) struct Copy {
    child: Child,
    output: PathBuf,
}

impl Copy {
    /// `servers`: one after the other is tried, with commas between them.
    pub(crate) fn start(dir: &Path, name: &str, servers: &str) -> Self {
        let output = dir.join(name);
        let mut command = Command::new(tool("WALSER_TEST_PYTHON"));
        command.args(["member.py", "billing", "work"]).current_dir(dir).env("WALSER_SERVER", servers);
        let child = command.stdout(File::create(&output).unwrap()).stdin(Stdio::null()).spawn().unwrap();
        Self { child, output }
    }

    /// What it has printed so far, by partition, in order.
    pub(crate) fn processed(&self) -> BTreeMap<i32, Vec<i64>> {
        let mut processed = BTreeMap::new();
        for line in std::fs::read_to_string(&self.output).unwrap().lines() {
            let [partition, offset, value] = line.split(' ').collect::<Vec<_>>()[..] else { continue };
            // The last line may be there in part.
            if value != format!("{partition}-{offset}.") {
                continue;
            }
            let of = processed.entry(partition.parse().unwrap()).or_insert_with(Vec::new);
            of.push(offset.parse().unwrap());
        }
        processed
    }

    pub(crate) fn signal(&mut self, signal: &str) {
        run(Command::new("kill").args([signal, &self.child.id().to_string()]));
    }

    /// Stops politely.
    pub(crate) fn stop(&mut self) {
        self.signal("-TERM");
        assert!(self.child.wait().unwrap().success());
    }
}

impl Drop for Copy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn records(copies: &[&Copy]) -> BTreeSet<(i32, i64)> {
    let all = copies.iter().flat_map(|copy| copy.processed());
    all.flat_map(|(partition, offsets)| offsets.into_iter().map(move |offset| (partition, offset))).collect()
}

pub(crate) async fn write_round(client: &Client, round: i64) {
    for offset in ROUND * round..ROUND * (round + 1) {
        for partition in 0..PARTITIONS {
            write(client, "work", partition, format!("{partition}-{offset}.")).await;
        }
    }
}

pub(crate) fn wait_for_all(copies: &[&Copy], rounds: i64) {
    let all: BTreeSet<_> =
        (0..PARTITIONS).flat_map(|partition| (0..ROUND * rounds).map(move |offset| (partition, offset))).collect();
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while records(copies) != all {
        assert!(tokio::time::Instant::now() < deadline, "{:?} are missing", &all - &records(copies));
        wait_a_little();
    }
}

/// Puts the program of the README into a directory, with its stubs.
pub(crate) fn write_program(dir: &Path) {
    python_stubs(dir);
    let program = blocks("README.md", "python").remove(0);
    assert!(program.lines().count() <= 35);
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/python/member.py");
    assert_eq!(program, std::fs::read_to_string(example).unwrap(), "the README shows the example");
    std::fs::write(dir.join("member.py"), program).unwrap();
}

/// The group begins behind everything.
pub(crate) async fn all_is_committed(client: &Client, rounds: i64) {
    let mut later = Member::join(client, "billing", "work").await;
    later.own(usize::try_from(PARTITIONS).unwrap()).await;
    assert!(later.owned.values().all(|start| *start == ROUND * rounds), "{:?}", later.owned);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_copies_of_the_program_of_the_readme_share_a_topic_while_one_is_killed_and_one_stopped() {
    let (dir, data) = place();
    let server = Server::start(&data);
    let client = server.client();
    write_program(dir.path());
    create(&client, "work", PARTITIONS, &[]).await;
    let [mut killed, mut stopped, mut last] =
        ["a", "b", "c"].map(|name| Copy::start(dir.path(), name, &server.address));
    let mut rounds = 0;
    while [&killed, &stopped, &last].iter().any(|copy| copy.processed().len() < 2) {
        write_round(&client, rounds).await;
        rounds += 1;
        wait_for_all(&[&killed, &stopped, &last], rounds);
    }
    // Until here members came, and what moved while it was processed is processed twice.
    let settled = ROUND * rounds;
    write_round(&client, rounds).await;
    killed.signal("-KILL");
    write_round(&client, rounds + 1).await;
    wait_for_all(&[&killed, &stopped, &last], rounds + 2);
    stopped.stop();
    write_round(&client, rounds + 2).await;
    rounds += 3;
    wait_for_all(&[&killed, &stopped, &last], rounds);
    last.stop();

    // What was committed is not read again: the one that was stopped has committed all of it, and the one that was killed
    // all but what it was at.
    let both = &records(&[&stopped]) & &records(&[&last]);
    assert!(both.iter().all(|(_, offset)| *offset < settled), "{both:?} from {settled} on");
    let others = records(&[&stopped, &last]);
    for (partition, mut offsets) in killed.processed() {
        offsets.retain(|offset| *offset >= settled);
        let again = offsets.iter().skip_while(|offset| !others.contains(&(partition, **offset)));
        assert!(again.clone().all(|offset| others.contains(&(partition, *offset))), "{partition}: {offsets:?}");
    }
    for copy in [&killed, &stopped, &last] {
        for (partition, offsets) in copy.processed() {
            assert!(offsets.is_sorted(), "{partition}: {offsets:?}");
        }
    }
    all_is_committed(&client, rounds).await;
    server.assert_no_panic();
}
