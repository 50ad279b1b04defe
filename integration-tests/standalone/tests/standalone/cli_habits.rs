//! What people who know other command lines expect of this one.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Output, Stdio};

use walser_proto::v1 as pb;

use crate::server::{Server, binary, create, place};

fn told(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn out(output: &[u8]) -> String {
    String::from_utf8(output.to_vec()).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_ends_when_nobody_takes_its_output_any_more() {
    let (_dir, data) = place();
    let server = Server::start(&data);
    server.cli_ok(&["produce", "t", "a", "b"]);
    let mut command = Command::new(binary());
    command.args(["consume", "t", "-f", "%v\n"]).env("WALSER_SERVER", &server.address);
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    stdout.read_line(&mut line).unwrap();
    assert_eq!(line, "a\n");
    drop(stdout);
    // Nothing more is written to the topic: it must not wait for that.
    assert!(child.wait().unwrap().success());
    server.assert_no_panic();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_signal_ends_a_reader_whose_output_nobody_takes() {
    let (_dir, data) = place();
    let server = Server::start(&data);
    let lines: String = (0..100_000).map(|number| format!("{number}\n")).collect();
    assert!(server.cli_with_input(&["produce", "t"], lines.as_bytes()).status.success());
    let mut command = Command::new(binary());
    command.args(["consume", "t", "-f", "%v\n"]).env("WALSER_SERVER", &server.address);
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut stdout = BufReader::with_capacity(16, child.stdout.take().unwrap());
    let mut line = String::new();
    stdout.read_line(&mut line).unwrap();
    // The pipe is full of the rest now, or soon: the program is held by its output.
    assert!(Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap().success());
    assert_eq!(child.wait().unwrap().code(), Some(143));
    server.assert_no_panic();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hangup_ends_a_reader_unless_nohup_started_it() {
    let (_dir, data) = place();
    let server = Server::start(&data);
    server.cli_ok(&["produce", "t", "a"]);
    // A child inherits what is ignored: these tests themselves may have been started by nohup.
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:")).unwrap();
    let hears = u64::from_str_radix(ignored.trim(), 16).unwrap() & 1 == 0;
    for (before, ends) in [("", hears), ("trap '' HUP;", false)] {
        let script = format!("{before} exec \"$0\" consume t --from latest -f '%v\\n'");
        let mut command = Command::new("sh");
        command.args(["-c", &script]).arg(binary()).env("WALSER_SERVER", &server.address);
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        // It listens once it reads: until then, what is written is before its start.
        let (told, reads) = std::sync::mpsc::channel();
        let reading = std::thread::spawn(move || {
            let first = lines.next();
            let _ = told.send(());
            assert!(first.is_some());
            lines
        });
        while reads.try_recv().is_err() {
            server.cli_ok(&["produce", "t", "b"]);
        }
        let mut lines = reading.join().unwrap();
        assert!(Command::new("kill").args(["-HUP", &child.id().to_string()]).status().unwrap().success());
        if ends {
            assert_eq!(child.wait().unwrap().code(), Some(129));
            continue;
        }
        server.cli_ok(&["produce", "t", "last"]);
        assert!(lines.by_ref().map(Result::unwrap).any(|line| line == "last"), "it reads on");
        assert!(Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap().success());
        assert_eq!(child.wait().unwrap().code(), Some(143));
    }
    server.assert_no_panic();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_hangs_is_given_up() {
    let (_dir, data) = place();
    let server = Server::start(&data);
    server.cli_ok(&["produce", "t", "a"]);
    server.signal("STOP");
    let ends = |arguments: &'static [&'static str]| {
        let address = server.address.clone();
        std::thread::spawn(move || crate::server::cli_at(&address, arguments, &[]))
    };
    let running = [ends(&["status"]), ends(&["consume", "t", "-e", "--timeout", "1"])];
    for command in running {
        let output = command.join().unwrap();
        assert_eq!(output.status.code(), Some(7), "{}", told(&output));
        assert!(!told(&output).contains("INTERNAL_ERROR"), "{}", told(&output));
    }
    server.signal("CONT");
    server.cli_ok(&["status"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_demo_goes_on_after_a_restart() {
    let (_dir, data) = place();
    let server = Server::start(&data);
    let address = server.address.clone();
    let mut command = Command::new(binary());
    command.args(["demo", "-n", "60", "--rate", "20"]).env("WALSER_SERVER", &address);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert_eq!(lines.by_ref().take(10).count(), 10);
    let data = server.kill();
    let server = Server::start_with(&data, &["--listen", &address]);
    assert_eq!(lines.count(), 50, "none is missing, none comes twice");
    assert!(child.wait().unwrap().success());
    server.assert_no_panic();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_records_are_those_of_each_partition_or_of_all() {
    let (_dir, data) = place();
    let server = Server::start(&data);
    create(&server.client(), "t", 3, &[]).await;
    for number in 0..30 {
        let (partition, time) = ((number % 3).to_string(), (1_795_000_000_000_i64 + number).to_string());
        server.cli_ok(&["produce", "t", "-p", &partition, "-T", &time, &number.to_string()]);
    }
    let each = out(&server.cli_ok(&["consume", "t", "--from", "-2", "-e", "-f", "%v "]));
    assert_eq!(each.split_whitespace().count(), 6, "two of each of three: {each}");
    let all = out(&server.cli_ok(&["consume", "t", "--last", "5", "-f", "%v "]));
    assert_eq!(all, "25 26 27 28 29 ");
    assert_eq!(server.cli(&["consume", "t", "--last", "2000000"]).status.code(), Some(2));
    server.assert_no_panic();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_patterns_and_forms() {
    let (_dir, data) = place();
    let server = Server::start(&data);
    server.cli_ok(&["topic", "create", "logs-a", "logs-b", "orders", "-p", "2", "-c", "retention.ms=7d"]);
    let ls = |arguments: &[&str]| out(&server.cli_ok(&[&["topic", "ls"], arguments].concat()));
    assert_eq!(ls(&["-o", "name"]), "logs-a\nlogs-b\norders\n");
    assert_eq!(ls(&["logs-*", "-o", "name"]), "logs-a\nlogs-b\n");
    let json: serde_json::Value = serde_json::from_str(&ls(&["-o", "json"])).unwrap();
    assert_eq!(json["topics"][0]["stats"]["recordCount"], 0, "zeros are there, and numbers are numbers: {json}");
    assert_eq!(json["topics"][0]["partitionCount"], 2);
    let lines = ls(&["-o", "ndjson"]);
    let parsed: Vec<serde_json::Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(parsed.len(), 3);
    let described = out(&server.cli_ok(&["topic", "describe", "logs-*"]));
    assert!(described.contains("logs-a  ready") && described.contains("logs-b  ready"), "{described}");
    assert!(described.contains("retention.ms  7d"), "{described}");
    assert!(described.lines().all(|line| line.chars().count() <= 80), "{described}");
    server.cli_ok(&["topic", "alter", "logs-*", "-c", "segment.bytes=1GiB"]);
    let config = out(&server.cli_ok(&["topic", "config", "logs-b"]));
    assert!(config.contains("segment.bytes = 1GiB  (topic)"), "{config}");
    assert!(config.lines().all(|line| line.chars().count() <= 80), "{config}");
    for topic in ["logs-a", "logs-b"] {
        server.cli_ok(&["produce", topic, topic]);
    }
    let mut read: Vec<_> =
        out(&server.cli_ok(&["consume", "logs-*", "-e", "-f", "%v\n"])).lines().map(str::to_owned).collect();
    read.sort();
    assert_eq!(read, ["logs-a", "logs-b"]);
    let some = server.cli(&["topic", "create", "new", "orders", "never", "-o", "name"]);
    assert!(some.status.code() == Some(4) && told(&some).contains("those listed above are done"), "{}", told(&some));
    assert_eq!(out(&some.stdout), "new\nnever\n", "what was done is said");
    let none = server.cli(&["topic", "rm", "new", "nowhere", "--yes"]);
    assert!(none.status.code() == Some(3) && !told(&none).contains("listed above"), "{}", told(&none));
    server.cli_ok(&["topic", "rm", "new", "never", "--yes"]);
    server.cli_ok(&["topic", "rm", "logs-?", "--yes"]);
    assert_eq!(ls(&["-o", "name"]), "orders\n");
    let none = server.cli(&["topic", "rm", "logs-*", "--yes"]);
    assert!(none.status.code() == Some(3) && told(&none).contains("no topic fits"), "{}", told(&none));
    server.assert_no_panic();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dry_run_changes_nothing() {
    let (_dir, data) = place();
    let server = Server::start(&data);
    server.cli_ok(&["topic", "create", "new", "--dry-run"]);
    assert_eq!(server.cli(&["topic", "describe", "new"]).status.code(), Some(3));
    server.cli_ok(&["produce", "t", "a", "b", "c"]);
    let table = out(&server.cli_ok(&["topic", "alter", "t", "-c", "retention.ms=1d", "--dry-run"]));
    assert!(table.contains("would be changed"), "{table}");
    server.cli_ok(&["topic", "add-partitions", "t", "-p", "5", "--dry-run"]);
    let starts = out(&server.cli_ok(&["topic", "truncate", "t", "--before", "2", "--dry-run"]));
    assert!(starts.lines().any(|line| line.split_whitespace().eq(["0", "2"])), "{starts}");
    let described = out(&server.cli_ok(&["topic", "describe", "t"]));
    assert!(described.contains("1 partition ") && !described.contains("retention.ms"), "{described}");
    assert_eq!(out(&server.cli_ok(&["consume", "t", "-e", "-f", "%v"])), "abc");
    let wrong = server.cli(&["topic", "alter", "t", "-c", "retention.ms=soon", "--dry-run"]);
    assert_eq!(wrong.status.code(), Some(2), "{}", told(&wrong));
    server.assert_no_panic();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn errors_use_the_words_of_the_user() {
    let (_dir, data) = place();
    let server = Server::start(&data);
    server.cli_ok(&["topic", "create", "kv", "-c", "retention.ms=7d"]);
    let admin = server.admin.clone();
    let http = format!("http://{}", server.address);
    for (arguments, code, parts) in [
        (&["topic", "alter", "kv"][..], 2, &["nothing to change", "walser topic alter kv --config"][..]),
        (&["consume", "kv", "-n", "abc"], 2, &["\"abc\" is not a number of records"]),
        (&["up", "--memory", "10"], 2, &["\"10\" are 10 bytes", "10MiB if that is meant"]),
        (&["status", "-s", &admin], 7, &["speaks HTTP/1.1, not gRPC", "port"]),
        (&["status", "-s", &http], 2, &["begins with http://", &server.address]),
        (&["topic", "create", "kv", "--if-not-exists"], 4, &["its retention.ms is 7d, you asked for the default"]),
        (&["topic", "describe", "kvv"], 3, &["did you mean \"kv\"?", "walser topic list"]),
        (&["topic", "alter", "kvv", "-c", "retention.ms=1d"], 3, &["did you mean \"kv\"?"]),
        (&["topic", "delete", "kvv", "--yes"], 3, &["did you mean \"kv\"?"]),
        (&["topic", "ls", "kvv"], 3, &["did you mean \"kv\"?"]),
        (&["bench", "produce", "--size", "4GiB"], 2, &["more than a batch can have"]),
        (
            &["topic", "truncate", "kv", "--before", "5", "--yes"],
            6,
            &["beyond the end of kv/0, 0: nothing was deleted"],
        ),
        (&["bench", "consume", "--topic", "none"], 3, &["(TOPIC_NOT_FOUND)"]),
        (&["consume", "none-*"], 3, &["no topic fits the pattern \"none-*\""]),
        (&["produce", "kv", "--as", "json", "{"], 2, &["record 1: it is not a record as `walser consume -o json`"]),
        (&["produce", "kv", "-f", "%k", "x"], 2, &["an input format has a %v"]),
        (&["produce", "kv", "-z", "brotli", "x"], 2, &["[possible values: none, gzip, snappy, lz4, zstd]"]),
    ] {
        let output = server.cli(arguments);
        let shown = told(&output);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {shown}");
        for part in parts {
            assert!(shown.contains(part), "{arguments:?}: {part} is not in: {shown}");
        }
    }
    server.assert_no_panic();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_benchmark_touches_only_topics_of_its_own() {
    let (_dir, data) = place();
    let server = Server::start(&data);
    server.cli_ok(&["produce", "mine", "a"]);
    let refused = server.cli(&["bench", "produce", "--topic", "mine", "-n", "10"]);
    let shown = told(&refused);
    assert!(refused.status.code() == Some(4) && shown.contains("--reuse"), "{shown}");
    assert_eq!(out(&server.cli_ok(&["consume", "mine", "-e", "-f", "%v"])), "a");
    let topics = || out(&server.cli_ok(&["topic", "ls", "-o", "name"]));
    server.cli_ok(&["bench", "produce", "-n", "1000"]);
    server.cli_ok(&["bench", "e2e", "-n", "100", "--topic", "named"]);
    server.cli_ok(&["bench", "consume", "-n", "1000"]);
    assert_eq!(topics(), "mine\n", "removed at the end");
    server.cli_ok(&["bench", "produce", "--topic", "mine", "--reuse", "-n", "10", "--size", "1"]);
    server.cli_ok(&["bench", "consume", "--topic", "mine"]);
    assert_eq!(topics(), "mine\n", "and this one is left");
    // The signal comes as soon as the topic is there, which can be before the creator has its answer.
    let client = server.client();
    for _ in 0..10 {
        let mut command = Command::new(binary());
        command
            .args(["bench", "produce", "--duration", "600s", "--topic", "long"])
            .env("WALSER_SERVER", &server.address);
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        while client.topics().get_topic(pb::GetTopicRequest { name: "long".to_owned() }).await.is_err() {}
        assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(130), "{}", told(&output));
        assert_eq!(topics(), "mine\n", "removed after Ctrl-C: {}", told(&output));
    }
    server.assert_no_panic();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn contexts_name_servers() {
    let (dir, data) = place();
    let server = Server::start(&data);
    let run = |arguments: &[&str], variables: &[(&str, &str)]| {
        let mut command = Command::new(binary());
        command.args(arguments).env_remove("WALSER_SERVER").env("XDG_CONFIG_HOME", dir.path());
        command.envs(variables.iter().copied()).output().unwrap()
    };
    assert_eq!(run(&["context", "current"], &[]).status.code(), Some(3), "none yet");
    assert!(run(&["context", "add", "here", &server.address], &[]).status.success());
    assert!(run(&["context", "add", "away", "127.0.0.1:1"], &[]).status.success());
    assert_eq!(out(&run(&["context", "current"], &[]).stdout), format!("here {}\n", server.address));
    assert!(run(&["status"], &[]).status.success(), "the first one is the current one");
    assert!(run(&["context", "use", "away"], &[]).status.success());
    assert_eq!(run(&["status"], &[]).status.code(), Some(7));
    for (arguments, variables) in [
        (&["status", "--context", "here"][..], &[][..]),
        (&["status"], &[("WALSER_CONTEXT", "here")]),
        (&["status"], &[("WALSER_SERVER", server.address.as_str())]),
        (&["status", "--context", "here"], &[("WALSER_SERVER", "127.0.0.1:1")]),
        (&["status", "-s", &server.address], &[("WALSER_CONTEXT", "away")]),
    ] {
        let output = run(arguments, variables);
        assert!(output.status.success(), "{arguments:?} {variables:?}: {}", told(&output));
    }
    let status = out(&run(&["status", "--context", "here"], &[]).stdout);
    assert!(status.contains("· context here ·"), "{status}");
    let list = out(&run(&["context", "ls"], &[]).stdout);
    assert!(list.contains("*  away"), "{list}");
    assert!(run(&["context", "use", "-"], &[]).status.success() && run(&["status"], &[]).status.success());
    let missing = run(&["status", "--context", "hree"], &[]);
    assert!(missing.status.code() == Some(3) && told(&missing).contains("did you mean \"here\"?"));
    assert!(run(&["context", "rm", "away"], &[]).status.success());
    assert_eq!(out(&run(&["context", "ls", "-o", "name"], &[]).stdout), "here\n");
    std::fs::write(dir.path().join("walser/config.toml"), "current = \"gone\"\n[contexts]\n").unwrap();
    let dangling = run(&["topic", "ls"], &[]);
    assert!(
        dangling.status.code() == Some(3) && told(&dangling).contains("no context \"gone\""),
        "{}",
        told(&dangling)
    );
    std::fs::write(dir.path().join("walser/config.toml"), "").unwrap();
    let adding: Vec<_> = (0..20)
        .map(|number| {
            let mut command = Command::new(binary());
            command.args(["context", "add", &format!("c{number}"), "h:1"]).env("XDG_CONFIG_HOME", dir.path());
            command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
        })
        .collect();
    adding.into_iter().for_each(|mut child| assert!(child.wait().unwrap().success()));
    assert_eq!(out(&run(&["context", "ls", "-o", "name"], &[]).stdout).lines().count(), 20, "none is lost");
    std::fs::write(dir.path().join("walser/config.toml"), "current = [").unwrap();
    let broken = run(&["context", "ls"], &[]);
    assert!(told(&broken).contains("config.toml"), "{}", told(&broken));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shell_completes_what_the_server_has() {
    let (_dir, data) = place();
    let server = Server::start(&data);
    server.cli_ok(&["topic", "create", "orders", "orders-old", "clicks"]);
    let complete = |words: &[&str], address: &str| {
        let mut command = Command::new(binary());
        command.env("COMPLETE", "bash").env("_CLAP_COMPLETE_INDEX", words.len().to_string());
        command.env("_CLAP_IFS", "\n").env("WALSER_SERVER", address).args(["--", "walser"]).args(words);
        let output = command.output().unwrap();
        assert!(output.status.success() && output.stderr.is_empty(), "{}", told(&output));
        out(&output.stdout).lines().map(str::to_owned).collect::<Vec<_>>()
    };
    let at = server.address.as_str();
    assert_eq!(complete(&["topic", "describe", "ord"], at), ["orders", "orders-old"]);
    assert_eq!(complete(&["consume", "cl"], at), ["clicks"]);
    assert!(
        complete(&["topic", "alter", "orders", "--config", "retention."], at).contains(&"retention.ms=".to_owned())
    );
    assert_eq!(complete(&["produce", "orders", "--compression", "z"], at), ["zstd"]);
    assert_eq!(complete(&["produce", "orders", "--acks", "l"], at), ["leader"]);
    assert_eq!(complete(&["consume", "ord"], "127.0.0.1:1"), Vec::<String>::new(), "no server, no names, no noise");
    assert_eq!(complete(&["consume", "-s", at, "cl"], "127.0.0.1:1"), ["clicks"], "of the server on the line");
    for shell in ["bash", "zsh", "fish"] {
        let script = out(&server.cli_ok(&["completion", shell]));
        assert!(script.contains("COMPLETE"), "{shell}: {script}");
    }
}

/// Who says how long waits; who does not may have named another server than was meant.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_producer_that_says_how_long_waits_for_a_server_that_is_not_there_yet() {
    let (_dir, data) = place();
    let server = Server::start(&data);
    let address = server.address.clone();
    server.stop();
    let at_once = crate::server::cli_at(&address, &["produce", "t", "a"], &[]);
    assert_eq!(at_once.status.code(), Some(7), "{}", told(&at_once));
    let mut command = Command::new(binary());
    command.args(["produce", "t", "-t", "60", "b"]).env("WALSER_SERVER", &address);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let first = lines.next().unwrap().unwrap();
    assert!(first.contains("retrying for up to 60 s"), "{first}");
    let server = Server::start_with(&data, &["--listen", &address]);
    assert!(child.wait().unwrap().success());
    assert_eq!(crate::server::values(&server.client(), "t", 0).await, ["b"]);
}
