//! Histories in files: good ones are valid, and bad ones have the anomalies that their names say.

#![allow(clippy::unwrap_used, reason = "a test that fails says where")]

use std::collections::BTreeSet;
use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use walser_history::{Anomaly, Event, History, HistoryOp, HistoryRecord, Recorder, Verdict};

fn files(folder: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/histories").join(folder);
    let mut files: Vec<PathBuf> = folder.read_dir().unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

fn judge(path: &Path) -> Verdict {
    History::read(BufReader::new(File::open(path).unwrap()))
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()))
        .check()
}

fn judge_text(text: &str) -> Result<Verdict, String> {
    History::read(text.as_bytes()).map(|history| history.check()).map_err(|error| error.to_string())
}

fn kinds(verdict: &Verdict) -> BTreeSet<&'static str> {
    verdict.anomalies.keys().map(|kind| kind.name()).collect()
}

/// What a file's name says before `--`, several kinds with `+` between them.
fn expected(path: &Path) -> BTreeSet<&str> {
    path.file_name().unwrap().to_str().unwrap().split("--").next().unwrap().split('+').collect()
}

#[test]
fn good_histories_are_valid() {
    for path in files("good") {
        let verdict = judge(&path);
        assert!(verdict.valid, "{}: {:#?}", path.display(), verdict.anomalies);
    }
}

#[test]
fn bad_histories_have_what_their_names_say() {
    for path in files("bad") {
        let verdict = judge(&path);
        assert!(!verdict.valid, "{}", path.display());
        assert_eq!(kinds(&verdict), expected(&path), "{}: {:#?}", path.display(), verdict.anomalies);
        for found in verdict.anomalies.values() {
            assert_eq!(found.count, found.examples.len() as u64, "{}", path.display());
            assert!(found.examples.iter().all(|example| !example.detail.is_empty()));
        }
    }
}

#[test]
fn every_kind_has_two_bad_histories() {
    let files = files("bad");
    for kind in Anomaly::ALL {
        let only = |path: &&PathBuf| expected(path) == BTreeSet::from([kind.name()]);
        assert!(files.iter().filter(only).count() >= 2, "{kind:?}");
        assert_eq!(serde_json::to_string(&kind).unwrap(), format!("{:?}", kind.name()));
    }
}

/// Lines, and what is said of the line that cannot be understood.
fn unreadable() -> Vec<(String, &'static str)> {
    let begun = r#"{"process":1,"type":"invoke","op":"send","topic":"t","partition":0,"value":1}"#;
    let ok = r#"{"process":1,"type":"ok","op":"send""#;
    let poll = r#"{"process":2,"type":"invoke","op":"poll"}"#;
    let polled = r#"{"process":2,"type":"ok","op":"poll""#;
    let commit = r#"{"process":3,"type":"invoke","op":"commit","group":"g","topic":"t","partition":0,"offset":1}"#;
    let committed = r#"{"process":3,"type":"ok","op":"commit""#;
    vec![
        ("{".to_owned(), "line 1: EOF while parsing"),
        (format!("{begun}\n{}", &begun[..40]), "line 2: EOF while parsing"),
        ("\n\n[]".to_owned(), "line 3: is not a JSON object; write one object per line"),
        (format!("[{begun}]"), "line 1: is not a JSON object"),
        ("send 1 ok".to_owned(), "line 1: is not a JSON object"),
        (format!("{begun}{begun}"), "line 1: trailing characters"),
        (r#"{"type":"ok","op":"poll"}"#.to_owned(), "line 1: missing field `process`"),
        (r#"{"process":1,"process":2,"type":"ok","op":"poll"}"#.to_owned(), "duplicate field `process`"),
        (r#"{"process":1.5,"type":"ok","op":"poll"}"#.to_owned(), "a whole number of at most 64 bits, or a string"),
        (r#"{"process":1,"type":"ok","op":"read"}"#.to_owned(), "unknown variant `read`"),
        (r#"{"process":1,"type":"done","op":"poll"}"#.to_owned(), "expected one of `invoke`, `ok`, `fail`, `info`"),
        (r#"{"process":1,"type":"invoke","op":"send","topic":"t"}"#.to_owned(), "a send needs `value` here"),
        (r#"{"process":1,"type":"ok","op":"poll"}"#.to_owned(), "process 1 ends a poll that it did not begin"),
        (format!("{begun}\n{begun}"), "line 2: process 1 begins a send and has not ended its send of line 1"),
        (
            format!("{begun}\n{ok}}}\n\n{}", begun.replace("\"partition\":0", "\"partition\":1")),
            "line 4: value 1 was sent to partition 0 of topic \"t\" before",
        ),
        (format!("{begun}\n{ok},\"value\":2}}"), "line 2: the outcome of this send contradicts its invoke in line 1"),
        (format!("{begun}\n{ok},\"partition\":2}}"), "line 2: the outcome of this send contradicts its invoke"),
        (format!("{begun}\n{ok},\"topic\":\"u\"}}"), "line 2: the outcome of this send contradicts its invoke"),
        (format!("{begun}\n{ok},\"records\":[]}}\n{ok}}}"), "line 3: process 1 ends a send that it did not begin"),
        (format!("{begun}\n{ok},\"offset\":-1}}"), "line 2: invalid value: integer `-1`"),
        (format!("{begun}\n{}", r#"{"process":1,"type":"ok","op":"poll"}"#), "line 2: process 1 ends a poll"),
        (format!("{commit}\n{committed},\"offset\":2}}"), "line 2: the outcome of this commit contradicts its invoke"),
        (format!("{commit}\n{committed},\"group\":2}}"), "line 2: the outcome of this commit contradicts its invoke"),
        (format!("{poll}\n{polled}}}"), "line 2: a poll needs `records` here"),
        (format!("{poll}\n{polled},\"records\":[{{\"partition\":0}}]}}"), "line 2: a poll needs `topic` here"),
        (format!("{poll}\n{polled},\"topic\":\"t\",\"records\":[{{\"offset\":0,\"value\":1}}]}}"), "needs `partition`"),
        (format!("{poll}\n{polled},\"topic\":\"t\",\"records\":[{{\"partition\":0,\"value\":1}}]}}"), "needs `offset`"),
        (format!("{poll}\n{polled},\"topic\":\"t\",\"records\":[{{\"partition\":0,\"offset\":1}}]}}"), "needs `value`"),
        (format!("{poll}\n{polled},\"records\":0}}"), "line 2: invalid type"),
    ]
}

#[test]
fn a_line_that_cannot_be_understood_is_named() {
    for (text, message) in unreadable() {
        let error = judge_text(&text).unwrap_err();
        assert!(error.contains(message), "{text}\n{error}");
    }
    assert!(History::read([0xff, b'\n'].as_slice()).is_err());
    assert!(History::read([b'{', b'"', 0xff, b'"', b':', b'1', b'}'].as_slice()).is_err());
}

#[test]
fn what_a_history_cannot_show_is_said() {
    let warnings = |text: &str| judge_text(text).unwrap().warnings;
    let send = "{\"process\":1,\"type\":\"invoke\",\"op\":\"send\",\"topic\":\"t\",\"partition\":0,\"value\":1}\n";
    let ok = "{\"process\":1,\"type\":\"ok\",\"op\":\"send\",\"offset\":0}\n";
    let poll = "{\"process\":2,\"type\":\"invoke\",\"op\":\"poll\"}\n";
    let read = "{\"process\":2,\"type\":\"ok\",\"op\":\"poll\",\"topic\":\"t\",\"records\":[{\"partition\":0,\"offset\":0,\"value\":1}]}\n";
    assert_eq!(warnings("").len(), 2);
    assert!(warnings(send)[0].contains("no send was acknowledged"));
    let unread = warnings(&format!("{send}{ok}"));
    assert!(unread[0].contains("no record was polled") && unread[1].contains("1 acknowledged values"), "{unread:?}");
    assert_eq!(warnings(&format!("{send}{ok}{poll}{read}")), Vec::<String>::new());
}

#[test]
fn an_operation_without_an_end_counts_as_info() {
    let mut history = History::default();
    history.push(Event::send(1_u64, "t", 0, "a")).unwrap();
    history.push(Event::poll(2_u64)).unwrap();
    history.push(Event::poll(2_u64).ok().with(vec![HistoryRecord::new("t", 0, "a").at(3)])).unwrap();
    let verdict = history.check();
    assert!(verdict.valid, "{:?}", verdict.anomalies);
    assert_eq!((verdict.counts.sent, verdict.counts.unknown), (1, 1));
}

/// More events than a step that compares everything with everything would end with.
#[test]
fn a_large_history_is_judged() {
    const ROUNDS: u64 = 75_000;
    let recorder = Recorder::new(Vec::new());
    for round in 0..ROUNDS {
        let value = format!("value-{round}");
        let send = Event::send(round % 16, "t", 0, value.as_str());
        recorder.record(&send).unwrap();
        // The log has records of its own, the reader jumps over each of them.
        recorder.record(&send.ok().at(2 * round)).unwrap();
        recorder.record(&Event::poll("r")).unwrap();
        let records = vec![HistoryRecord::new("t", 0, value.as_str()).at(2 * round)];
        recorder.record(&Event::poll("r").ok().with(records)).unwrap();
    }
    let mut bytes = recorder.finish().unwrap();
    let verdict = History::read(bytes.as_slice()).unwrap().complete().check();
    assert!(verdict.valid && verdict.warnings.is_empty(), "{:?}", verdict.anomalies);
    assert_eq!((verdict.counts.events, verdict.counts.polled), (4 * ROUNDS, ROUNDS));
    // Every value again, lower than all before: all kinds of bookkeeping grow at once.
    let again = bytes.clone();
    bytes.extend(again);
    let verdict = History::read(bytes.as_slice()).unwrap().check();
    assert_eq!(kinds(&verdict), BTreeSet::from(["nonmonotonic-poll"]));
}

#[test]
fn examples_are_few_and_all_are_counted() {
    let mut history = History::default();
    for value in 0..1_000_u64 {
        history.push(Event::poll("r")).unwrap();
        history.push(Event::poll("r").ok().with(vec![HistoryRecord::new("t", 0, value).at(value)])).unwrap();
    }
    let verdict = history.check();
    assert_eq!(kinds(&verdict), BTreeSet::from(["phantom"]));
    let found = &verdict.anomalies[&Anomaly::Phantom];
    assert_eq!((found.count, found.examples.len()), (1_000, 20));
    let first = serde_json::to_string(&found.examples[0]).unwrap();
    assert_eq!(
        first,
        r#"{"topic":"t","partition":0,"offset":0,"value":0,"line":2,"detail":"polled, and nobody sent it"}"#
    );
}

#[test]
fn an_event_that_cannot_follow_is_refused() {
    let mut history = History::default();
    history.push(Event::poll(1_u64)).unwrap();
    let error = history.push(Event::invoke(1_u64, HistoryOp::Assign)).unwrap_err();
    assert_eq!(error.line, 2);
}

#[test]
fn what_threads_record_is_read_back() {
    let recorder = Recorder::new(Vec::new());
    std::thread::scope(|scope| {
        for process in 0..4_u64 {
            let recorder = &recorder;
            scope.spawn(move || {
                for offset in 0..100 {
                    let event = Event::send(process, "t", u32::try_from(process).unwrap(), process * 100 + offset);
                    recorder.record(&event).unwrap();
                    recorder.record(&event.ok().at(offset)).unwrap();
                }
                let commit = Event::commit(process, "g", "t", 0, 7);
                recorder.record(&commit).unwrap();
                recorder.record(&commit.info()).unwrap();
                let assign = Event::assign(process, "t", &[0, 1]);
                recorder.record(&assign).unwrap();
                recorder.record(&assign.ok()).unwrap();
            });
        }
    });
    let bytes = recorder.finish().unwrap();
    let verdict = History::read(bytes.as_slice()).unwrap().check();
    assert!(verdict.valid, "{verdict:?}");
    let counts = verdict.counts;
    assert_eq!((counts.events, counts.processes, counts.partitions), (816, 4, 4));
    assert_eq!((counts.sent, counts.acknowledged, counts.unread, counts.unknown), (400, 400, 400, 0));
}

fn run(arguments: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_walser-history"));
    command.args(arguments.split(' ')).stdin(Stdio::null()).output().unwrap()
}

#[test]
fn the_program_prints_the_verdict_and_exits_with_it() {
    let (good, bad) = (files("good").pop().unwrap(), files("bad").pop().unwrap());
    let valid = |output: &Output| {
        let verdict: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        (output.status.code(), verdict["valid"].as_bool(), verdict["anomalies"].as_object().unwrap().len())
    };
    assert_eq!(valid(&run(good.to_str().unwrap())), (Some(0), Some(true), 0));
    assert_eq!(valid(&run(bad.to_str().unwrap())), (Some(1), Some(false), 1));
    assert_eq!(valid(&run("-")), (Some(0), Some(true), 0));
    let unread = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/histories/good/unread-above-the-highest-poll.jsonl");
    let unread = unread.to_str().unwrap();
    assert_eq!(valid(&run(unread)), (Some(0), Some(true), 0));
    assert_eq!(valid(&run(&format!("--complete {unread}"))), (Some(1), Some(false), 1));
    assert_eq!(run("--help").status.code(), Some(0));
    assert_eq!(run("--no-such-option").status.code(), Some(2));
    for unreadable in [concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"), "no-such-file"] {
        let output = run(unreadable);
        assert_eq!((output.status.code(), output.stdout.len()), (Some(2), 0));
        assert!(String::from_utf8(output.stderr).unwrap().starts_with("walser-history: "));
    }
}

/// The block of JSON lines in README.md is right, and without its only read it has the verdict that follows it.
#[test]
fn the_documented_history_has_the_documented_verdict() {
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md")).unwrap();
    let mut blocks = page.split("```json\n").skip(1).map(|rest| rest.split("```").next().unwrap());
    let (lines, documented) = (blocks.next().unwrap(), blocks.next().unwrap());
    assert!(judge_text(lines).unwrap().valid);
    let unread = lines.replace(r#"{"partition":0,"offset":0,"value":"a"}"#, "");
    let documented: serde_json::Value = serde_json::from_str(documented).unwrap();
    assert_eq!(serde_json::to_value(judge_text(&unread).unwrap()).unwrap(), documented);
}
