//! The command line changes nothing that passes through it, and says what became of input that it could not finish.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::process::{Child, Command, Output, Stdio};

use walser_proto::v1 as pb;

use crate::faults::until;
use crate::processes::Cluster;
use crate::server::{Server, binary, cli_at, create, place, read_all, wait_a_little};

fn told(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// A command that runs beside the test.
fn spawn(server: &Server, arguments: &[&str]) -> Child {
    let mut command = Command::new(binary());
    command.args(arguments).env("WALSER_SERVER", &server.address);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

pub(crate) fn signal(child: &Child, name: &str) {
    let killed = Command::new("kill").args([format!("-{name}"), child.id().to_string()]).status().unwrap();
    assert!(killed.success());
}

fn header(key: &str, value: Option<&[u8]>) -> pb::Header {
    pb::Header { key: key.to_owned(), value: value.map(|value| value.to_vec().into()), raw_key: None }
}

/// Keys, values, headers and times that are easily lost.
fn odd_records() -> Vec<pb::Record> {
    let json = r#"{"f":0.12345678901234567890123,"n":123456789012345678901234,"n":1}"#;
    let nameless = pb::Header { key: String::new(), value: Some("x".into()), raw_key: Some(vec![0xfe, 0x00].into()) };
    let with = |key: Option<&[u8]>, value: Option<&[u8]>, headers: Vec<pb::Header>, millis: i64| pb::Record {
        key: key.map(|key| key.to_vec().into()),
        value: value.map(|value| value.to_vec().into()),
        headers,
        timestamp_millis: Some(millis),
    };
    vec![
        with(None, Some(json.as_bytes()), vec![], 1_700_000_000_001),
        with(Some(b""), None, vec![header("a", Some(b"1")), header("a", None), header("a", Some(b""))], 1),
        with(Some(&[0xff, 0x00]), Some(&[0x80, b'\n', 0x1b]), vec![nameless, header("", None)], 1_700_000_000_002),
        with(Some(b"k\"\n\\"), Some("\u{9b}2J \u{1f600} \r\n".as_bytes()), vec![], 1_700_000_000_003),
        with(Some(json.as_bytes()), Some(b""), vec![header("json", Some(json.as_bytes()))], 1_700_000_000_004),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_consume_writes_as_json_produce_puts_back() {
    let (_dir, data) = place();
    let server = Server::start(&data);
    let client = server.client();
    let old = [("message.timestamp.before.max.ms", "-1"), ("retention.ms", "-1")];
    create(&client, "from", 3, &old).await;
    create(&client, "to", 3, &old).await;
    for partition in 0..3 {
        let (topic, partition) = ("from".to_owned(), Some(partition));
        let request = pb::ProduceRequest { topic, partition, records: odd_records(), ..Default::default() };
        client.producer().produce(request).await.unwrap();
    }
    for inline in [&[][..], &["--inline-json"]] {
        let lines = server.cli_ok(&[&["consume", "from", "--to", "latest", "-o", "json"], inline].concat());
        assert_eq!(lines.iter().filter(|byte| **byte == b'\n').count(), 15);
        let text = String::from_utf8(lines.clone()).unwrap();
        assert!(text.contains("0.12345678901234567890123") && text.contains("123456789012345678901234"), "{text}");
        for line in text.lines() {
            let parsed: serde_json::Value = serde_json::from_str(line).unwrap();
            assert_eq!(parsed["topic"], "from", "{line}");
        }
        let output = server.cli_with_input(&["produce", "to", "--as", "json", "--keep-partition"], &lines);
        assert!(output.status.success(), "{}", told(&output));
    }
    for partition in 0..3 {
        let sent = read_all(&client, "from", partition).await;
        let copied = read_all(&client, "to", partition).await;
        assert_eq!((sent.len(), copied.len()), (5, 10));
        for (number, copy) in copied.into_iter().enumerate() {
            let original = &sent[number % 5];
            let expected = pb::ConsumedRecord { offset: i64::try_from(number).unwrap(), ..original.clone() };
            assert_eq!(copy, expected, "record {number} of partition {partition}");
        }
    }
    server.assert_no_panic();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_format_reads_back_what_it_has_printed() {
    let (_dir, data) = place();
    let server = Server::start(&data);
    let client = server.client();
    create(&client, "from", 1, &[]).await;
    create(&client, "to", 1, &[]).await;
    let value = |number: usize| format!("value {number}, with = and :");
    let record = |number: usize| pb::Record {
        key: Some(format!("k{number}").into()),
        value: Some(value(number).into()),
        headers: vec![header("a", Some(b"x,y=z\\")), header("b", None)],
        timestamp_millis: None,
    };
    let records = (0..1000).map(record).collect();
    let request = pb::ProduceRequest { topic: "from".to_owned(), records, ..Default::default() };
    client.producer().produce(request).await.unwrap();
    let format = "%T|%p|%o|%t|%k|%h|%v\\n";
    let lines = server.cli_ok(&["consume", "from", "-e", "-f", format]);
    let output = server.cli_with_input(&["produce", "to", "-f", format], &lines);
    assert!(output.status.success(), "{}", told(&output));
    assert_eq!(read_all(&client, "to", 0).await, read_all(&client, "from", 0).await);
    server.assert_no_panic();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_nulls_times_and_stdin_as_kcat_has_them() {
    let (_dir, data) = place();
    let server = Server::start(&data);
    let client = server.client();
    let flags = ["produce", "t", "-", "-K", ":", "-Z", "-H", "h=1", "-T", "2026-11-26T00:00:00Z"];
    let output = server.cli_with_input(&flags, b"a:1\nb:\n:2\nnone\nc:d:e");
    assert!(output.status.success(), "{}", told(&output));
    let records = read_all(&client, "t", 0).await;
    let text = |bytes: &Option<bytes::Bytes>| bytes.as_ref().map(|bytes| String::from_utf8(bytes.to_vec()).unwrap());
    let found: Vec<_> = records.iter().map(|record| (text(&record.key), text(&record.value))).collect();
    let some = |text: &str| Some(text.to_owned());
    let expected =
        [(some("a"), some("1")), (some("b"), None), (None, some("2")), (None, some("none")), (some("c"), some("d:e"))];
    assert_eq!(found, expected);
    assert!(records.iter().all(|record| record.timestamp_millis == 1_795_651_200_000 && record.headers.len() == 1));
    let file = data.join("more.txt");
    std::fs::write(&file, "from a file\n").unwrap();
    let output = server.cli_with_input(&["produce", "t", "-F", file.to_str().unwrap(), "--file", "-"], b"from stdin\n");
    assert!(output.status.success(), "{}", told(&output));
    assert_eq!(read_all(&client, "t", 0).await.len(), 7);
    server.assert_no_panic();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_good_before_bad_input_is_written_and_a_later_run_goes_on() {
    let (_dir, data) = place();
    let server = Server::start(&data);
    let client = server.client();
    create(&client, "t", 3, &[]).await;
    let line = |number: usize| format!("{{\"id\":{number}}}\n");
    let good: String = (0..100_000).map(line).collect();
    let bad = format!("{good}not JSON\n{}", line(1));
    let output = server.cli_with_input(&["produce", "t", "--key-json", ".id"], bad.as_bytes());
    let shown = told(&output);
    assert_eq!(output.status.code(), Some(2), "{shown}");
    assert!(shown.contains("line 100,001 of standard input: it is not JSON"), "{shown}");
    assert!(shown.contains("100,000 of 100,000 records written, 0 unknown, 0 not written"), "{shown}");
    assert!(shown.contains("--skip 100000"), "{shown}");
    assert!(shown.contains("to go on: correct the input, then"), "{shown}");
    let repaired = format!("{good}{}{}", line(2), line(1));
    let more = server.cli_with_input(&["produce", "t", "--key-json", ".id", "--skip", "100000"], repaired.as_bytes());
    assert!(more.status.success(), "{}", told(&more));
    let mut total = 0;
    for partition in 0..3 {
        total += read_all(&client, "t", partition).await.len();
    }
    assert_eq!(total, 100_002);
    server.assert_no_panic();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn input_that_cannot_be_meant_is_refused() {
    let (_dir, data) = place();
    let server = Server::start(&data);
    let client = server.client();
    create(&client, "t", 2, &[]).await;
    let few = server.cli_with_input(&["produce", "t", "--skip", "100"], b"1\n2\n");
    assert!(few.status.code() == Some(2) && told(&few).contains("the input has 2 records, fewer than --skip 100"));
    let dash = server.cli_with_input(&["produce", "t", "a", "-"], b"b\n");
    assert!(dash.status.code() == Some(2) && told(&dash).contains("stands alone"), "{}", told(&dash));
    let (huge, large) = ("1TiB", server.cli(&["produce", "t", "--as", "blocks:1TiB"]));
    assert!(large.status.code() == Some(2) && told(&large).contains("at most 16MiB"), "{huge}: {}", told(&large));
    for time in ["99999999999-01-01", "2025-02-31", "2025-11-21T00:00:00Z05"] {
        assert_eq!(server.cli(&["produce", "t", "-T", time, "x"]).status.code(), Some(2), "{time}");
    }
    assert_eq!(read_all(&client, "t", 0).await.len() + read_all(&client, "t", 1).await.len(), 0);
    // A partition that is not there: what comes before it is written, and it is named.
    let output = server.cli_with_input(&["produce", "t", "-f", "%p %v\n"], b"0 a\n1 b\n0 c\n9 d\n1 e\n");
    let shown = told(&output);
    assert_eq!(output.status.code(), Some(3), "{shown}");
    assert!(shown.contains("it is record 4 of the input") && shown.contains("3 of 4 records written"), "{shown}");
    assert!(shown.contains("--skip 3"), "{shown}");
    assert_eq!((read_all(&client, "t", 0).await.len(), read_all(&client, "t", 1).await.len()), (2, 1));
    server.assert_no_panic();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_of_a_thousand_partitions_take_little_memory() {
    let (_dir, data) = place();
    let server = Server::start(&data);
    create(&server.client(), "many", 1000, &[("durability", "page-cache")]).await;
    let lines: String = (0..200_000).map(|number| format!("key-{number}:{}\n", "v".repeat(300))).collect();
    let mut child = spawn(&server, &["produce", "many", "-K", ":"]);
    let mut stdin = child.stdin.take().unwrap();
    let feeding = std::thread::spawn(move || stdin.write_all(lines.as_bytes()));
    let mut peak = 0;
    while child.try_wait().unwrap().is_none() {
        let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
        peak = peak.max(kib.unwrap_or(0));
        wait_a_little();
    }
    feeding.join().unwrap().unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", told(&output));
    assert!(peak < 300 << 10, "{peak} KiB for batches of 1,000 partitions");
    server.assert_no_panic();
}

/// `count` lines of a producer's input, and the end of the input left open.
fn feed(child: &mut Child, count: usize) -> std::process::ChildStdin {
    let mut stdin = child.stdin.take().unwrap();
    let lines: String = (0..count).map(|number| format!("line {number}\n")).collect();
    stdin.write_all(lines.as_bytes()).unwrap();
    stdin
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_interrupted_producer_says_what_is_written() {
    let (_dir, data) = place();
    let server = Server::start(&data);
    let client = server.client();
    create(&client, "t", 1, &[]).await;
    for (name, code) in [("INT", 130), ("TERM", 143)] {
        let before = read_all(&client, "t", 0).await.len();
        let mut child = spawn(&server, &["produce", "t"]);
        let stdin = feed(&mut child, 1000);
        while read_all(&client, "t", 0).await.len() < before + 1000 {
            wait_a_little();
        }
        signal(&child, name);
        let output = child.wait_with_output().unwrap();
        drop(stdin);
        let shown = told(&output);
        assert_eq!(output.status.code(), Some(code), "{shown}");
        assert!(shown.contains("1,000 of 1,000 records written, 0 unknown, 0 not written"), "{shown}");
        assert!(shown.contains("--skip 1000"), "{shown}");
    }
    server.assert_no_panic();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_producer_without_its_leader_ends_with_an_interrupt_and_tells_the_unknown() {
    let (_dir, data) = place();
    let mut cluster = Cluster::start(&data);
    create(&cluster.client(), "t", 1, &[]).await;
    cluster.kill_storage();
    let mut command = Command::new(binary());
    command.args(["produce", "t"]).env("WALSER_SERVER", cluster.address());
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let stdin = feed(&mut child, 10);
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    let mut warning = String::new();
    stderr.read_line(&mut warning).unwrap();
    assert!(warning.starts_with("warning: ") && warning.contains("tried again for 60 s"), "{warning}");
    signal(&child, "INT");
    let mut rest = String::new();
    stderr.read_to_string(&mut rest).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130), "{warning}{rest}");
    assert!(rest.contains("0 of 10 records written") && rest.contains("to go on: the same command again"), "{rest}");
    drop(stdin);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_producer_whose_output_is_closed_says_what_is_written() {
    let (_dir, data) = place();
    let server = Server::start(&data);
    let client = server.client();
    create(&client, "t", 1, &[("max.message.bytes", "1KiB")]).await;
    let records: Vec<String> = (0..5000).map(|number| format!("record {number}")).collect();
    let mut arguments = vec!["produce", "t"];
    arguments.extend(records.iter().map(String::as_str));
    let mut child = spawn(&server, &arguments);
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    let mut first = String::new();
    stdout.read_line(&mut first).unwrap();
    assert_eq!(first, "t/0 @0\n");
    drop(stdout);
    let output = child.wait_with_output().unwrap();
    let shown = told(&output);
    let written = read_all(&client, "t", 0).await.len();
    if output.status.success() {
        assert_eq!(written, 5000, "it was done already: {shown}");
    } else {
        let counts = shown.lines().find(|line| line.contains(" records written")).unwrap_or_else(|| panic!("{shown}"));
        let said: usize = counts.trim().split(' ').next().unwrap().replace(',', "").parse().unwrap();
        assert_eq!(said, written, "{shown}");
        assert!(shown.contains(&format!("--skip {written}")), "{shown}");
    }
    server.assert_no_panic();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_that_is_too_large_names_the_setting_and_a_block_that_fits() {
    let (_dir, data) = place();
    let server = Server::start(&data);
    let client = server.client();
    create(&client, "t", 1, &[("max.message.bytes", "100KiB")]).await;
    let large = format!("small\n{}\nsmall\n", "x".repeat(200_000));
    let output = server.cli_with_input(&["produce", "t"], large.as_bytes());
    let shown = told(&output);
    assert_eq!(output.status.code(), Some(2), "{shown}");
    assert!(shown.contains("max.message.bytes") && shown.contains("it is record 2 of the input"), "{shown}");
    let block = shown.split("--as ").nth(1).unwrap_or_else(|| panic!("{shown}")).split_whitespace().next().unwrap();
    let output = server.cli_with_input(&["produce", "t", "--as", block], large.as_bytes());
    assert!(output.status.success(), "{block}: {}", told(&output));
    server.assert_no_panic();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_command_line_creates_topics_only_where_the_server_does() {
    let (_dir, data) = place();
    let more = ["--set", "gateway.auto.create.topics=false"];
    let server = Server::start_with(&data, &more);
    let output = server.cli(&["produce", "t", "x"]);
    let shown = told(&output);
    assert_eq!(output.status.code(), Some(3), "{shown}");
    assert!(shown.contains("(TOPIC_NOT_FOUND)") && shown.contains("walser topic create t"), "{shown}");
    drop(server);
    let (dir, _data) = place();
    let cluster = Cluster::start(dir.path());
    let output = cli_at(&cluster.address(), &["produce", "made", "x"], &[]);
    assert!(output.status.success() && told(&output).contains("created topic \"made\" (1 partition)"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_interrupted_creation_lists_exactly_what_it_has_created() {
    let (_dir, data) = place();
    let server = Server::start(&data);
    let names: Vec<_> = (0..20_000).map(|number| format!("t-{number}")).collect();
    let mut command = Command::new(binary());
    command.args(["topic", "create", "-o", "name"]).args(&names).env("WALSER_SERVER", &server.address);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let some = async || server.cli_ok(&["topic", "list", "-o", "name"]).len() > 100;
    until(some, "some topics are there").await;
    signal(&child, "INT");
    let output = child.wait_with_output().unwrap();
    let told = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(130), "{told}");
    assert!(told.contains("those listed above are done, nothing was begun for"), "{told}");
    let lines =
        |bytes: Vec<u8>| -> BTreeSet<String> { String::from_utf8(bytes).unwrap().lines().map(str::to_owned).collect() };
    assert_eq!(lines(output.stdout), lines(server.cli_ok(&["topic", "list", "-o", "name"])));
}
