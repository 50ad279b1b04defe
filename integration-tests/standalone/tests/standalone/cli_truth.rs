//! The command line says why something failed, and its exit code says whether all of it was done.

use std::process::Output;

use walser_proto::v1 as pb;

use crate::faults::until;
use crate::processes::Cluster;
use crate::server::{Server, cli_at, create, place, read_all, record};

/// Of a partition whose node the controller has given up.
const LEADERLESS: &str = "partition 0: no storage node that is in service leads it";

fn code(output: &Output) -> i32 {
    output.status.code().unwrap()
}

fn out(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn told(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn write(topic: &str, partition: i32, value: impl Into<Vec<u8>>) -> pb::ProduceRequest {
    let (topic, partition) = (topic.to_owned(), Some(partition));
    pb::ProduceRequest { topic, partition, records: vec![record(value)], ..Default::default() }
}

/// The cap of a server in memory is its disk.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_that_a_full_disk_refuses_fails_with_that_reason_and_says_what_was_written() {
    let (_dir, data) = place();
    // With an eighth of the reserve free again, the disk does not count as full until the next refusal: batches are
    // smaller than that here.
    let server = Server::start_with(&data, &["--memory", "24MiB", "--set", "storage.disk.reserve.bytes=4MiB"]);
    let client = server.client();
    create(&client, "t", 1, &[("segment.bytes", "1MiB")]).await;
    let line = |number: usize| format!("{number}{}\n", "x".repeat(200_000)).into_bytes();
    let input: Vec<u8> = (0..200).flat_map(line).collect();
    let output = server.cli_with_input(&["produce", "t", "--timeout", "7"], &input);
    let (shown, records) = (told(&output), read_all(&client, "t", 0).await.len());
    assert_eq!(code(&output), 1, "{shown}");
    let lines: Vec<_> = shown.lines().collect();
    let at =
        |part: &str| lines.iter().position(|line| line.contains(part)).unwrap_or_else(|| panic!("{part}: {shown}"));
    let waiting = at("warning: the disk is full");
    assert!(lines[waiting].contains("(DISK_FULL); each record is tried again for 7 s"), "{shown}");
    let error = at("error: ");
    assert!(error > waiting && lines[error].contains("(DISK_FULL)"), "{shown}");
    assert!(records > 10 && records < 200, "{records}");
    assert!(at(&format!("{records} of ")) > error, "{records} are written: {shown}");
    at(&format!("--skip {records}"));
    server.assert_no_panic();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_leader_writing_and_reading_fail_and_name_it() {
    let (_dir, data) = place();
    let mut cluster = Cluster::start(&data);
    let client = cluster.client();
    create(&client, "t", 1, &[]).await;
    client.producer().produce(write("t", 0, "x")).await.unwrap();
    cluster.kill_storage();
    let address = cluster.address();
    let output = cli_at(&address, &["produce", "t", "y", "--timeout", "2"], &[]);
    let shown = told(&output);
    assert_eq!(code(&output), 7, "{shown}");
    // The gateway waits for a leader for longer than this client waits for the gateway.
    assert!(shown.contains("error: ") && shown.contains("(REQUEST_TIMED_OUT)"), "{shown}");
    assert!(
        shown.contains("partition 0: storage node 1, which leads it, does not answer") || shown.contains(LEADERLESS)
    );
    assert!(shown.contains("0 of 1 record written") && out(&output).is_empty(), "{shown}");
    let output = cli_at(&address, &["consume", "t", "--to", "latest", "--timeout", "1"], &[]);
    let shown = told(&output);
    assert_eq!((code(&output), out(&output).as_str()), (7, ""), "{shown}");
    assert!(shown.contains("(LEADER_NOT_AVAILABLE)"), "{shown}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reading_from_behind_the_end_fails_with_offset_out_of_range() {
    let (_dir, data) = place();
    let server = Server::start(&data);
    let client = server.client();
    create(&client, "one", 1, &[]).await;
    create(&client, "three", 3, &[]).await;
    for number in 0..10 {
        client.producer().produce(write("one", 0, format!("{number}"))).await.unwrap();
        client.producer().produce(write("three", number % 2, format!("{number}"))).await.unwrap();
    }
    for topic in ["one", "three"] {
        for more in [&["--to", "latest"][..], &["--to", "1000"], &["--to", "5"], &[]] {
            let output = server.cli(&[&["consume", topic, "--from", "999"], more].concat());
            let shown = told(&output);
            assert_eq!((code(&output), out(&output).as_str()), (6, ""), "{topic} {more:?}: {shown}");
            assert!(shown.contains("(OFFSET_OUT_OF_RANGE)"), "{topic} {more:?}: {shown}");
        }
    }
    // The end itself is a place to read from.
    let output = server.cli(&["consume", "one", "--from", "10", "--to", "latest"]);
    assert_eq!((code(&output), out(&output).as_str()), (0, ""), "{}", told(&output));
    let output = server.cli(&["consume", "one", "--from", "7", "--to", "latest", "-f", "%v "]);
    assert_eq!((code(&output), out(&output).as_str()), (0, "7 8 9 "), "{}", told(&output));
    // In one partition of three there are no five records.
    let output = server.cli(&["consume", "three", "--from", "3", "--to", "latest", "-f", "%v "]);
    assert!(code(&output) == 6 && told(&output).contains("(OFFSET_OUT_OF_RANGE)"), "{}", told(&output));
    server.assert_no_panic();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reading_to_the_end_fails_when_a_partition_is_damaged_and_reads_the_others() {
    let (_dir, data) = place();
    let server = Server::start(&data);
    let client = server.client();
    create(&client, "t", 2, &[]).await;
    for number in 0..3 {
        client.producer().produce(write("t", 0, format!("bad{number}"))).await.unwrap();
    }
    let logs: Vec<_> = std::fs::read_dir(data.join("logs")).unwrap().map(|entry| entry.unwrap().path()).collect();
    for number in 0..3 {
        client.producer().produce(write("t", 1, format!("good{number}"))).await.unwrap();
    }
    let complete = server.cli(&["consume", "t", "--to", "latest", "-f", "%v\n"]);
    assert_eq!((code(&complete), out(&complete).lines().count()), (0, 6), "{}", told(&complete));
    let data = server.kill();
    let log = logs.iter().find(|path| path.is_dir()).unwrap().join("00000000000000000000.log");
    let mut bytes = std::fs::read(&log).unwrap();
    bytes[80] ^= 0x55;
    std::fs::write(&log, bytes).unwrap();
    let server = Server::start(&data);
    let output = server.cli(&["consume", "t", "--to", "latest", "-f", "%v\n"]);
    let (shown, read) = (told(&output), out(&output));
    assert_ne!(code(&output), 0, "{read}{shown}");
    assert!(shown.contains("error: ") && shown.contains("(LOG_CORRUPT)"), "{read}{shown}");
    assert!(shown.matches("warning: t/0: ").count() <= 1, "{shown}");
    for value in ["bad0", "good0", "good1", "good2"] {
        assert!(read.lines().any(|line| line == value), "{value}: {read}{shown}");
    }
    assert!(!read.contains("bad1"), "{read}");
    server.assert_no_panic();
}

/// What a read has met lies where no start looks.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damage_that_a_read_has_met_is_known_after_a_restart_until_it_is_repaired() {
    let (_dir, data) = place();
    let server = Server::start(&data);
    create(&server.client(), "t", 1, &[]).await;
    for number in 0..3 {
        server.client().producer().produce(write("t", 0, format!("value{number}"))).await.unwrap();
    }
    server.stop();
    let dir =
        std::fs::read_dir(data.join("logs")).unwrap().map(|entry| entry.unwrap().path()).find(|path| path.is_dir());
    let log = dir.unwrap().join("00000000000000000000.log");
    let mut bytes = std::fs::read(&log).unwrap();
    bytes[120] ^= 0x55;
    std::fs::write(&log, bytes).unwrap();
    let server = Server::start(&data);
    let read = server.cli(&["consume", "t", "--end"]);
    assert!(told(&read).contains("(LOG_CORRUPT)"), "{}", told(&read));
    until(async || code(&server.cli(&["status"])) == 10, "the status names the damage").await;
    let refused = async |server: &Server| server.client().producer().produce(write("t", 0, "behind it")).await.is_err();
    assert!(refused(&server).await);
    server.stop();
    let server = Server::start(&data);
    assert_eq!(code(&server.cli(&["status"])), 10, "a stop has made it forgotten");
    assert!(refused(&server).await, "a write is taken behind damage");
    let data = server.kill();
    let server = Server::start(&data);
    assert!(refused(&server).await, "a write is taken behind damage");
    server.cli_ok(&["partition", "repair", "t", "0", "--accept-loss"]);
    assert!(!refused(&server).await);
    server.stop();
    let server = Server::start(&data);
    until(async || code(&server.cli(&["status"])) == 0, "nothing is wrong any more").await;
    let read = server.cli(&["consume", "t", "--end", "-f", "%v\n"]);
    assert_eq!((code(&read), out(&read).lines().last().map(str::to_owned)), (0, Some("behind it".to_owned())));
    server.assert_no_panic();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_data_directory_that_is_gone_is_named_and_a_read_to_the_end_does_not_wait_for_it() {
    let (dir, data) = place();
    let server = Server::start_with(&data, &["--set", "storage.idle.ms=100"]);
    let client = server.client();
    create(&client, "t", 1, &[]).await;
    client.producer().produce(write("t", 0, "x")).await.unwrap();
    // What is in open files is still read: none is open once the partition rests.
    let open = |fd: std::io::Result<std::fs::DirEntry>| std::fs::read_link(fd.unwrap().path()).unwrap_or_default();
    let descriptors = format!("/proc/{}/fd", server.pid());
    let rests = async || {
        let mut files = std::fs::read_dir(&descriptors).unwrap().map(open);
        !files.any(|file| file.ends_with("00000000000000000000.log"))
    };
    until(rests, "the partition rests").await;
    let away = dir.path().join("away");
    std::fs::rename(&data, &away).unwrap();
    let named = async || {
        let status = server.cli(&["status"]);
        code(&status) == 10 && out(&status).contains("DATA_DIRECTORY_FAILED")
    };
    until(named, "status names the directory").await;
    let refused = server.cli(&["produce", "t", "lost", "--timeout", "1"]);
    assert!(code(&refused) != 0 && told(&refused).contains("STORAGE_ERROR"), "{}", told(&refused));
    let partition = std::fs::read_dir(away.join("logs")).unwrap().map(|entry| entry.unwrap().path());
    let partition = partition.into_iter().find(|path| path.is_dir() && path.join("leader-epochs").exists()).unwrap();
    let aside = dir.path().join("aside");
    std::fs::rename(&partition, &aside).unwrap();
    // What is in memory is still read for a moment.
    let fails = async || {
        let read = server.cli(&["consume", "t", "--end", "--timeout", "1"]);
        code(&read) != 0 && told(&read).contains("not read to the end: t/0")
    };
    until(fails, "a read to the end fails").await;
    std::fs::rename(&aside, &partition).unwrap();
    // What is there is read: it is the same directory, wherever it lies.
    let read = async || out(&server.cli(&["consume", "t", "--end", "--timeout", "1", "-f", "%v"])) == "x";
    until(read, "it is read").await;
    std::fs::rename(&away, &data).unwrap();
    until(async || code(&server.cli(&["status"])) == 0, "the directory is back").await;
    assert_eq!(out(&server.cli(&["consume", "t", "--end", "-f", "%v"])), "x");
}

#[tokio::test]
async fn nothing_is_written_into_a_directory_that_has_taken_the_place_of_the_servers_own() {
    let (dir, data) = place();
    let server = Server::start(&data);
    let client = server.client();
    create(&client, "t", 2, &[]).await;
    client.producer().produce(write("t", 0, "kept")).await.unwrap();
    let away = dir.path().join("away");
    std::fs::rename(&data, &away).unwrap();
    std::fs::create_dir_all(data.join("logs")).unwrap();
    // Before anybody has looked: the first record of a partition makes its directory.
    let at_once = server.cli(&["produce", "t", "--partition", "1", "at once", "--timeout", "1"]);
    let named = async || {
        let status = server.cli(&["status"]);
        code(&status) == 10 && out(&status).contains("another directory is now at")
    };
    until(named, "status names the directory").await;
    for partition in ["0", "1"] {
        let refused = server.cli(&["produce", "t", "--partition", partition, "lost", "--timeout", "1"]);
        assert!(code(&refused) != 0 && told(&refused).contains("STORAGE_ERROR"), "{}", told(&refused));
    }
    // News of the metadata are not noted there either: it may be the directory of another node.
    let _created = server.cli(&["topic", "create", "u"]);
    let _altered = server.cli(&["topic", "alter", "t", "--config", "retention.ms=1d"]);
    let found = |dir: &std::path::Path| std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name());
    assert_eq!(found(&data).collect::<Vec<_>>(), ["logs"]);
    assert_eq!(found(&data.join("logs")).count(), 0);
    std::fs::remove_dir_all(&data).unwrap();
    std::fs::rename(&away, &data).unwrap();
    until(async || code(&server.cli(&["status"])) == 0, "the directory is back").await;
    assert_eq!(code(&server.cli(&["produce", "t", "--partition", "1", "again"])), 0);
    let read = out(&server.cli(&["consume", "t", "--end", "-f", "%v\n"]));
    assert!(read.contains("kept") && read.contains("again"), "{read}");
    assert!(code(&at_once) != 0 || read.contains("at once"), "it was acknowledged: {read}");
}
