//! Through the command line and back, byte for byte.

use std::io::Write as _;
use std::process::Stdio;

use crate::server::{Server, binary, place, wait_a_little};

/// Bytes that look like nothing (xorshift).
fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        bytes.extend_from_slice(&next());
    }
    bytes.truncate(len);
    bytes
}

#[test]
fn files_survive_with_a_kill_in_between() {
    let (dir, data) = place();
    let server = Server::start(&data);
    let text = std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/../../Cargo.lock")).unwrap();
    let binary = noise(5_000_000, 7);
    let (text_file, binary_file) = (dir.path().join("text"), dir.path().join("binary"));
    std::fs::write(&text_file, &text).unwrap();
    std::fs::write(&binary_file, &binary).unwrap();
    for codec in ["none", "gzip", "snappy", "lz4", "zstd"] {
        let (lines, blocks) = (format!("lines-{codec}"), format!("blocks-{codec}"));
        let path = text_file.to_str().unwrap();
        server.cli_ok(&["produce", &lines, "--file", path, "--compression", codec]);
        let path = binary_file.to_str().unwrap();
        server.cli_ok(&["produce", &blocks, "--file", path, "--as", "blocks:100000", "--compression", codec]);
    }
    let data = server.kill();
    let server = Server::start(&data);
    for codec in ["none", "gzip", "snappy", "lz4", "zstd"] {
        let (lines, blocks) = (format!("lines-{codec}"), format!("blocks-{codec}"));
        assert!(server.cli_ok(&["consume", &lines, "--to", "latest", "-f", "%v\\n"]) == text, "{codec}");
        assert!(server.cli_ok(&["consume", &blocks, "--to", "latest", "-o", "raw"]) == binary, "{codec}");
    }
    server.assert_no_panic();
}

/// A pipe may be silent for hours: what was read is sent, and Ctrl-C is heard.
#[test]
fn records_of_a_silent_pipe_are_sent_and_an_interrupt_ends_it() {
    let (_dir, data) = place();
    let server = Server::start(&data);
    let mut command = std::process::Command::new(binary());
    command.args(["produce", "t"]).env("WALSER_SERVER", &server.address).stdin(Stdio::piped()).stderr(Stdio::null());
    let mut producer = command.spawn().unwrap();
    let mut pipe = producer.stdin.take().unwrap();
    pipe.write_all(b"first\nsecond\nnot a line yet").unwrap();
    pipe.flush().unwrap();
    // The test runner's own limit ends a wait that never ends.
    while server.cli(&["consume", "t", "--to", "latest", "-f", "%v\\n"]).stdout != b"first\nsecond\n" {
        wait_a_little();
    }
    let id = producer.id().to_string();
    assert!(std::process::Command::new("kill").args(["-INT", &id]).status().unwrap().success());
    assert_eq!(producer.wait().unwrap().code(), Some(130));
    drop(pipe);
}

#[test]
fn a_record_is_what_the_framing_says() {
    let (_dir, data) = place();
    let server = Server::start(&data);
    let cases: [(&str, &[u8], &str); 5] = [
        ("lines", b"a\n\nb\r\nlast without an end", "[a][][b\r][last without an end]"),
        ("lines", b"\n", "[]"),
        ("lines", b"", ""),
        ("whole", b"a\nb\n", "[a\nb\n]"),
        ("blocks:2", b"abcde", "[ab][cd][e]"),
    ];
    for (number, (framing, input, expected)) in cases.into_iter().enumerate() {
        let topic = format!("framing-{number}");
        server.cli_ok(&["topic", "create", &topic]);
        let output = server.cli_with_input(&["produce", &topic, "--as", framing], input);
        assert!(output.status.success());
        let read = server.cli_ok(&["consume", &topic, "--to", "latest", "-f", "[%v]"]);
        assert_eq!(String::from_utf8_lossy(&read), expected, "{framing} {input:?}");
    }
}

#[test]
fn keys_headers_positions_and_formats() {
    let (_dir, data) = place();
    let server = Server::start(&data);
    server.cli_ok(&["topic", "create", "orders", "--partitions", "6"]);
    let printed = server.cli_ok(&["produce", "orders", "-k", "user-7", "-H", "a=1", "-H", "a=2", "first", "second"]);
    let printed = String::from_utf8(printed).unwrap();
    let lines: Vec<&str> = printed.lines().collect();
    assert_eq!(lines.len(), 2);
    // murmur2("user-7") as the Kafka clients compute it chooses the partition.
    let partition = walser_record_batch::partition_for_key(b"user-7", 6).to_string();
    assert_eq!(lines[0], format!("orders/{partition} @0"));
    let read = server.cli_ok(&["consume", "orders", "--to", "latest", "-f", "%t %p %o %k %v %h\\n"]);
    let expected = format!("orders {partition} 0 user-7 first a=1,a=2\norders {partition} 1 user-7 second a=1,a=2\n");
    assert_eq!(String::from_utf8(read).unwrap(), expected);

    let input = b"{\"user\":{\"id\":5}}\n{\"user\":{\"id\":\"x\"}}\n{}\n";
    let output = server.cli_with_input(&["produce", "keyed", "--key-json", ".user.id"], input);
    assert!(output.status.success());
    let read = server.cli_ok(&["consume", "keyed", "--to", "latest"]);
    let keys: Vec<serde_json::Value> = String::from_utf8(read)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["key"].clone())
        .collect();
    assert_eq!(serde_json::Value::from(keys), serde_json::json!(["5", "x", null]));

    server.cli_with_input(&["produce", "numbers"], b"0\n1\n2\n3\n4\n5\n6\n7\n8\n9");
    let window = |arguments: &[&str]| {
        let mut all = vec!["consume", "numbers", "-f", "%v"];
        all.extend(arguments);
        String::from_utf8(server.cli_ok(&all)).unwrap()
    };
    assert_eq!(window(&["--to", "latest"]), "0123456789");
    assert_eq!(window(&["--from", "-3", "--to", "latest"]), "789");
    assert_eq!(window(&["--from", "4", "--to", "6"]), "45");
    assert_eq!(window(&["--from", "@-1h", "-n", "2"]), "01");
    assert_eq!(window(&["--from", "latest", "--to", "latest"]), "");
    assert_eq!(window(&["--from", "@2000-01-01T00:00:00Z", "--to", "latest", "-p", "0"]), "0123456789");
}

#[test]
fn exit_codes_say_what_happened() {
    let (_dir, data) = place();
    let server = Server::start(&data);
    server.cli_ok(&["topic", "create", "there"]);
    let cases: [(&[&str], i32); 8] = [
        (&["topic", "describe", "missing"], 3),
        (&["topic", "create", "there"], 4),
        (&["topic", "create", "bad name"], 2),
        (&["topic", "create", "x", "--config", "retention.msec=1"], 2),
        (&["consume", "missing", "--to", "latest"], 3),
        (&["produce", "there", "-p", "9", "x"], 3),
        (&["topic", "delete", "there"], 2),
        (&["consume", "there", "--from", "soon"], 2),
    ];
    for (arguments, code) in cases {
        let output = server.cli(arguments);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {text}");
        assert!(text.contains("error:"), "{arguments:?}: {text}");
    }
    let wrong = server.cli(&["topic", "create", "x", "--config", "retention.msec=1"]);
    assert!(String::from_utf8_lossy(&wrong.stderr).contains("did you mean \"retention.ms\""));
    server.cli_ok(&["topic", "delete", "there", "--yes"]);
    let away = server.cli(&["topic", "list", "--server", "127.0.0.1:1"]);
    assert_eq!(away.status.code(), Some(7), "{}", String::from_utf8_lossy(&away.stderr));
}

#[test]
fn files_on_disk_can_be_inspected() {
    let (_dir, data) = place();
    let server = Server::start(&data);
    server.cli_ok(&["produce", "seen", "one", "two"]);
    server.stop();
    let logs = std::fs::read_dir(data.join("logs")).unwrap().flatten();
    let partition = logs.map(|entry| entry.path()).find(|path| path.is_dir()).unwrap();
    let output = std::process::Command::new(binary()).args(["log", "inspect"]).arg(partition).output();
    let text = String::from_utf8(output.unwrap().stdout).unwrap();
    assert!(text.contains("POSITION") && text.contains("0–1"), "{text}");
}
