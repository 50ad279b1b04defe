//! `walser consume --group`: what is printed is committed, and nothing else.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};

use crate::faults::until;
use crate::server::{Server, binary, create, place};

/// A member of a group: a process whose output is read line by line.
struct Member {
    child: Child,
    lines: std::io::Lines<BufReader<ChildStdout>>,
}

impl Member {
    fn start(address: &str, arguments: &[&str]) -> Self {
        let mut command = Command::new(binary());
        command.args(["consume", "-f", "%p %v\n"]).args(arguments).env("WALSER_SERVER", address);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines }
    }

    fn take(&mut self, count: usize) -> Vec<String> {
        let lines: Vec<String> = self.lines.by_ref().take(count).map(Result::unwrap).collect();
        assert_eq!(lines.len(), count, "{lines:?}");
        lines
    }

    fn signal(&self, name: &str) {
        let id = self.child.id().to_string();
        assert!(Command::new("kill").args([&format!("-{name}"), &id]).status().unwrap().success());
    }

    /// What it still prints, and how it ends.
    fn end(mut self) -> (Vec<String>, ExitStatus) {
        let rest = self.lines.by_ref().map(Result::unwrap).collect();
        (rest, self.child.wait().unwrap())
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Writes numbers, the record `n` into the partition `n` modulo their count.
fn write_numbers(server: &Server, topic: &str, partitions: usize, numbers: std::ops::Range<usize>) {
    for partition in 0..partitions {
        let of_partition = numbers.clone().filter(|number| number % partitions == partition);
        let lines: String = of_partition.map(|number| format!("{number}\n")).collect();
        if lines.is_empty() {
            continue;
        }
        let output = server.cli_with_input(&["produce", topic, "-p", &partition.to_string()], lines.as_bytes());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

/// The numbers of lines, each of which must be there once.
fn numbers(lines: &[String]) -> BTreeSet<usize> {
    let numbers: BTreeSet<usize> = lines.iter().map(|line| line.split_once(' ').unwrap().1.parse().unwrap()).collect();
    assert_eq!(numbers.len(), lines.len(), "none twice: {lines:?}");
    numbers
}

fn lines(output: &[u8]) -> Vec<String> {
    std::str::from_utf8(output).unwrap().lines().map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_count_commits_exactly_that_many_records() {
    let (_dir, data) = place();
    let mut server = Server::start(&data);
    create(&server.client(), "t", 4, &[]).await;
    write_numbers(&server, "t", 4, 0..100);
    let mut all = Vec::new();
    for count in ["1", "10", "39"] {
        let output = server.cli(&["consume", "-g", "g", "t", "-n", count, "-f", "%p %v\n"]);
        assert!(output.status.success() && output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
        let printed = lines(&output.stdout);
        assert_eq!(printed.len().to_string(), count);
        all.extend(printed);
    }
    // Commits are there after a restart, too.
    server.kill();
    server = Server::start(&data);
    all.extend(lines(&server.cli_ok(&["consume", "--group", "g", "t", "-n", "50", "-f", "%p %v\n"])));
    assert_eq!(numbers(&all), (0..100).collect());
    let other = lines(&server.cli_ok(&["consume", "-g", "other", "t", "-n", "100", "-f", "%p %v\n"]));
    assert_eq!(numbers(&other), (0..100).collect(), "every group reads everything");
    assert_eq!(server.cli_ok(&["consume", "-g", "g", "t", "-n", "0"]), b"");
    server.assert_no_panic();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_signal_commits_what_was_printed() {
    let (_dir, data) = place();
    let server = Server::start(&data);
    create(&server.client(), "t", 3, &[]).await;
    write_numbers(&server, "t", 3, 0..90_000);
    let mut all = Vec::new();
    for (signal, code) in [("INT", 130), ("TERM", 143), ("INT", 130)] {
        let mut member = Member::start(&server.address, &["-g", "g", "t"]);
        all.extend(member.take(1000));
        member.signal(signal);
        let (rest, status) = member.end();
        assert_eq!(status.code(), Some(code));
        all.extend(rest);
    }
    let left = 90_000 - numbers(&all).len();
    if left > 0 {
        let rest = server.cli_ok(&["consume", "-g", "g", "t", "-n", &left.to_string(), "-f", "%p %v\n"]);
        all.extend(lines(&rest));
    }
    assert_eq!(numbers(&all).len(), 90_000, "none is missing, none comes twice");
    server.assert_no_panic();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_share_partitions_and_take_over_from_each_other() {
    let (_dir, data) = place();
    let server = Server::start(&data);
    create(&server.client(), "t", 4, &[]).await;
    let mut first = Member::start(&server.address, &["-g", "g", "t"]);
    write_numbers(&server, "t", 4, 0..100);
    let mut all = first.take(100);
    let mut second = Member::start(&server.address, &["-g", "g", "t"]);
    // The second one has its share once it prints.
    let (mut end, (sender, by_second)) = (100, std::sync::mpsc::channel());
    let reading = std::thread::spawn(move || {
        let line = second.take(1).remove(0);
        sender.send(line).unwrap();
        second
    });
    let line = loop {
        write_numbers(&server, "t", 4, end..end + 4);
        end += 4;
        if let Ok(line) = by_second.try_recv() {
            break line;
        }
    };
    let mut second = reading.join().unwrap();
    all.push(line);
    // Killed, it leaves its partitions to the first one.
    second.child.kill().unwrap();
    let (rest, _) = second.end();
    all.extend(rest);
    write_numbers(&server, "t", 4, end..end + 400);
    end += 400;
    let mut seen: BTreeSet<usize> = BTreeSet::new();
    let number = |line: &String| line.split_once(' ').unwrap().1.parse::<usize>().unwrap();
    seen.extend(all.iter().map(number));
    while seen.len() < end {
        // What the second one has not committed comes again.
        seen.extend(first.take(1).iter().map(number));
    }
    first.signal("INT");
    let (_, status) = first.end();
    assert_eq!(status.code(), Some(130));
    assert_eq!(seen, (0..end).collect());
    server.assert_no_panic();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_goes_on_after_a_restart_of_the_server() {
    let (_dir, data) = place();
    let mut server = Server::start(&data);
    let address = server.address.clone();
    create(&server.client(), "t", 3, &[]).await;
    write_numbers(&server, "t", 3, 0..3);
    // Something is committed of every partition: else a start that is not would be read again.
    let mut all = lines(&server.cli_ok(&["consume", "-g", "g", "t", "-n", "3", "-f", "%p %v\n"]));
    let mut member = Member::start(&address, &["-g", "g", "t"]);
    for round in 0..3 {
        write_numbers(&server, "t", 3, round * 300 + 3..round * 300 + 303);
        all.extend(member.take(300));
        server.kill();
        server = Server::start_with(&data, &["--listen", &address]);
    }
    write_numbers(&server, "t", 3, 903..1000);
    all.extend(member.take(97));
    member.signal("INT");
    let (rest, status) = member.end();
    assert_eq!((rest, status.code()), (Vec::new(), Some(130)));
    assert_eq!(numbers(&all), (0..1000).collect());
    write_numbers(&server, "t", 3, 1000..1001);
    assert_eq!(server.cli_ok(&["consume", "-g", "g", "t", "-n", "1", "-f", "%v"]), b"1000", "all of it is committed");
    server.assert_no_panic();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_closed_pipe_did_not_take_is_read_again() {
    const SIZE: usize = 10_000;
    let (_dir, data) = place();
    let server = Server::start(&data);
    create(&server.client(), "t", 1, &[]).await;
    let text = "x".repeat(SIZE - 1) + "\n";
    assert!(server.cli_with_input(&["produce", "t"], text.repeat(100).as_bytes()).status.success());
    let mut command = Command::new(binary());
    command.args(["consume", "-g", "g", "t", "-f", "%v\n"]).env("WALSER_SERVER", &server.address);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdout = child.stdout.take().unwrap();
    let mut first = vec![0; SIZE];
    stdout.read_exact(&mut first).unwrap();
    assert_eq!(first, text.as_bytes());
    drop(stdout);
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
    // A pipe holds no more than 64 KiB on top of what was read from it.
    let next: usize =
        String::from_utf8(server.cli_ok(&["consume", "-g", "g", "t", "-n", "1", "-f", "%o"])).unwrap().parse().unwrap();
    assert!(next <= 1 + (64 << 10) / SIZE + 1, "{next}");
    // A reader that goes away while nothing is written ends the member, too.
    let mut idle = Member::start(&server.address, &["-g", "idle", "t", "--from", "-1"]);
    idle.take(1);
    let Member { child, lines } = &mut idle;
    let closed = std::mem::replace(lines, BufReader::new(silent()).lines());
    drop(closed);
    assert!(child.wait().unwrap().success());
    server.assert_no_panic();
}

/// The output of a process that prints nothing.
fn silent() -> ChildStdout {
    let mut child = Command::new("true").stdout(Stdio::piped()).spawn().unwrap();
    child.wait().unwrap();
    child.stdout.take().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_does_not_fit_a_group_is_refused_with_a_reason() {
    let (_dir, data) = place();
    let server = Server::start(&data);
    create(&server.client(), "t", 1, &[]).await;
    for (more, why) in [
        (&["-p", "0"][..], "--partition does not fit --group: the group gives its partitions to its members"),
        (&["--end"], "--end does not fit --group: a group goes on from its committed offsets and has no end"),
        (&["--to", "5"], "--to does not fit --group"),
        (&["--last", "5"], "--last does not fit --group"),
    ] {
        let output = server.cli(&[&["consume", "-g", "g", "t"], more].concat());
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(2) && told.contains(why), "{more:?}: {told}");
    }
    for arguments in [&["consume", "--instance-id", "i", "t"][..], &["consume", "--topic-pattern", "t.*"], &["consume"]]
    {
        assert_eq!(server.cli(arguments).status.code(), Some(2), "{arguments:?}");
    }
    let bad = server.cli(&["consume", "-g", "", "t"]);
    assert_eq!(bad.status.code(), Some(2), "{}", String::from_utf8_lossy(&bad.stderr));
    server.assert_no_panic();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn topics_that_come_later_are_read() {
    let (_dir, data) = place();
    let server = Server::start(&data);
    let mut named = Member::start(&server.address, &["-g", "named", "later"]);
    let mut fitting =
        Member::start(&server.address, &["-g", "fitting", "--topic-pattern", "la.*", "--instance-id", "i"]);
    server.cli_ok(&["produce", "later", "1"]);
    server.cli_ok(&["produce", "latest", "2"]);
    assert_eq!(named.take(1), ["0 1"]);
    let mut both = fitting.take(2);
    both.sort();
    assert_eq!(both, ["0 1", "0 2"]);
    for member in [named, fitting] {
        member.signal("TERM");
        assert_eq!(member.end().1.code(), Some(143));
    }
    let names = |more: &[&str]| lines(&server.cli_ok(&[&["topic", "ls", "-o", "name"], more].concat()));
    assert_eq!(names(&[]), ["later", "latest"]);
    assert_eq!(names(&["--internal"]), ["__walser_groups", "later", "latest"]);
    assert_eq!(names(&["__walser_groups"]), ["__walser_groups"]);
    assert_eq!(names(&["--internal", "__*"]), ["__walser_groups"]);
    server.assert_no_panic();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_partitions_are_shared() {
    let (_dir, data) = place();
    let server = Server::start(&data);
    create(&server.client(), "wide", 1000, &[]).await;
    let members = [1, 2, 3].map(|_| Member::start(&server.address, &["-g", "g", "wide"]));
    let input: String =
        (0..3000).map(|number| format!("{{\"partition\":{},\"value\":\"{number}\"}}\n", number % 1000)).collect();
    assert!(
        server
            .cli_with_input(&["produce", "wide", "--as", "json", "--keep-partition"], input.as_bytes())
            .status
            .success()
    );
    let (sender, received) = std::sync::mpsc::channel();
    let readers = members.map(|mut member| {
        let sender = sender.clone();
        let id = member.child.id();
        let reading = std::thread::spawn(move || {
            for line in member.lines.by_ref() {
                sender.send(line.unwrap()).unwrap();
            }
            assert_eq!(member.child.wait().unwrap().code(), Some(130));
        });
        (id, reading)
    });
    let all: Vec<String> = received.iter().take(3000).collect();
    for (id, reading) in readers {
        assert!(Command::new("kill").args(["-INT", &id.to_string()]).status().unwrap().success());
        reading.join().unwrap();
    }
    assert_eq!(numbers(&all), (0..3000).collect());
    server.assert_no_panic();
}

/// A client that hangs answers no ping, and is gone: it need not have closed anything.
#[test]
fn what_a_member_had_that_hangs_goes_to_the_others() {
    let (_dir, data) = place();
    let pings = ["--set", "listener.ping.interval.ms=200", "--set", "listener.ping.timeout.ms=300"];
    let server = Server::start_with(&data, &pings);
    let created = server.cli(&["topic", "create", "t", "--partitions", "2"]);
    assert!(created.status.success());
    write_numbers(&server, "t", 2, 0..2);
    let mut hanging = Member::start(&server.address, &["t", "-g", "g", "--from", "earliest"]);
    hanging.take(2);
    hanging.signal("STOP");
    // What it has printed it may have committed, or not.
    write_numbers(&server, "t", 2, 2..4);
    let mut other = Member::start(&server.address, &["t", "-g", "g", "--from", "earliest"]);
    let mut read = BTreeSet::new();
    while !(read.contains("0 2") && read.contains("1 3")) {
        read.extend(other.take(1));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn groups_are_listed_described_reset_and_deleted() {
    let (_dir, data) = place();
    let server = Server::start(&data);
    create(&server.client(), "t", 2, &[]).await;
    write_numbers(&server, "t", 2, 0..20);
    let read = |count: &str| lines(&server.cli_ok(&["consume", "-g", "billing", "t", "-n", count, "-f", "%p %v\n"]));
    assert_eq!(numbers(&read("20")).len(), 20);
    let text = |arguments: &[&str]| String::from_utf8(server.cli_ok(arguments)).unwrap();
    assert_eq!(text(&["group", "list", "-o", "name"]), "billing\n");
    assert_eq!(text(&["group", "list", "b*", "--state", "empty", "-o", "name"]), "billing\n");
    assert_eq!(text(&["group", "list", "--state", "stable", "-o", "name"]), "");
    assert!(text(&["group", "describe", "billing"]).contains("lag 0 records"));
    // A plan changes nothing.
    let plan = text(&["group", "reset", "billing", "--to", "earliest", "--dry-run"]);
    assert_eq!(plan.lines().filter(|line| line.starts_with("t ")).count(), 2, "{plan}");
    assert!(text(&["group", "lag", "billing"]).contains("billing"));
    let lag = |group: &str| {
        let shown: serde_json::Value =
            serde_json::from_slice(&server.cli_ok(&["group", "lag", group, "-o", "json"])).unwrap();
        shown["groups"][0]["totalLag"].as_i64()
    };
    assert_eq!(lag("billing"), Some(0));
    server.cli_ok(&["group", "reset", "billing", "--topic", "t", "-p", "1", "--shift", "-4"]);
    assert_eq!(lag("billing"), Some(4));
    server.cli_ok(&["group", "reset", "billing", "--offset", "t/0=7", "--offset", "t/1=9"]);
    assert_eq!(lag("billing"), Some(4));
    assert_eq!(numbers(&read("4")).len(), 4);
    // What cannot be done says so, with the exit code of its kind.
    let code = |arguments: &[&str]| server.cli(arguments).status.code();
    assert_eq!(code(&["group", "describe", "nobody"]), Some(3));
    assert_eq!(code(&["group", "delete", "nobody*", "--yes"]), Some(3));
    assert_eq!(code(&["group", "reset", "billing"]), Some(2));
    assert_eq!(code(&["group", "reset", "billing", "--offset", "t=1"]), Some(2));
    assert_eq!(code(&["group", "delete", "billing"]), Some(2), "it asks, and there is no terminal");
    let mut member = Member::start(&server.address, &["-g", "billing", "t"]);
    write_numbers(&server, "t", 2, 20..22);
    assert_eq!(numbers(&member.take(2)).len(), 2);
    assert_eq!(code(&["group", "delete", "billing", "--yes"]), Some(6));
    let described: serde_json::Value =
        serde_json::from_slice(&server.cli_ok(&["group", "describe", "billing", "-o", "json"])).unwrap();
    assert_eq!(
        (&described["state"], &described["members"][0]["assigned"][1]["partition"]),
        (&"GROUP_STATE_STABLE".into(), &1.into())
    );
    let id = described["members"][0]["memberId"].as_str().unwrap().to_owned();
    assert_eq!(code(&["group", "remove-member", "billing", ""]), Some(2), "every id begins so");
    assert_eq!(code(&["group", "remove-member", "billing", "nobody"]), Some(3));
    assert_eq!(code(&["group", "remove-member", "billing", &id.replace('-', "0")]), Some(3));
    assert_eq!(code(&["group", "remove-member", "billing", "--instance", "nobody"]), Some(3));
    assert_eq!(text(&["group", "remove-member", "billing", &id[..8]]), format!("removed {id} from billing\n"));
    drop(member);
    let forgets = async || code(&["group", "delete-offsets", "billing", "--topic", "t", "--yes"]) == Some(0);
    until(forgets, "its client, which had joined again, is gone").await;
    server.cli_ok(&["group", "delete", "bill*", "--yes"]);
    assert_eq!(text(&["group", "list", "-o", "name"]), "");
}

/// One rule for what shows some of all: what is there is shown, a name that is missing is told, and a pattern may fit none.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_there_is_shown_beside_names_that_are_missing() {
    let (_dir, data) = place();
    let server = Server::start(&data);
    create(&server.client(), "t", 1, &[]).await;
    write_numbers(&server, "t", 1, 0..2);
    for group in ["a", "b"] {
        server.cli_ok(&["consume", "-g", group, "t", "-n", "2"]);
    }
    for (kind, names) in [("group list", ["a", "b"]), ("group lag", ["a", "b"]), ("topic list", ["t", "t"])] {
        let run = |more: &[&str]| {
            let output = server.cli(&[&kind.split(' ').collect::<Vec<_>>(), more, &["-o", "name"]].concat());
            let texts = [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap());
            (output.status.code().unwrap(), texts)
        };
        assert_eq!(run(&["no*"]), (0, [String::new(), String::new()]), "{kind}");
        let (code, [shown, told]) = run(&[names[0], "nobody", names[1], "none"]);
        let names: BTreeSet<_> = names.into_iter().collect();
        assert_eq!((code, lines(shown.as_bytes()).len()), (3, names.len()), "{kind}: {shown}");
        assert!(told.contains("\"nobody\", \"none\" do not exist"), "{kind}: {told}");
        let (code, [shown, told]) = run(&["nobody"]);
        assert!(code == 3 && shown.is_empty() && told.contains("\"nobody\" does not exist"), "{kind}: {told}");
    }
    server.assert_no_panic();
}
