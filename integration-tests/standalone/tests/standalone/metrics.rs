//! The metrics that servers export are those of `docs/operations.md`, and say what happened.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use walser_client::Client;
use walser_proto::v1 as pb;

use crate::faults::{get, get_from, until};
use crate::processes::Cluster;
use crate::server::{Server, create, place, read_all, record};

/// What an exposition says of a metric.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Family {
    kind: String,
    help: String,
    labels: BTreeSet<String>,
}

/// The body of an answer of the admin port.
fn body(answer: &str) -> &str {
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    answer.split_once("\r\n\r\n").unwrap().1
}

/// The metrics in an exposition, by name.
fn families(text: &str) -> BTreeMap<String, Family> {
    let mut families: BTreeMap<String, Family> = BTreeMap::new();
    for line in text.lines() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            let (name, help) = help.split_once(' ').unwrap();
            families.entry(name.to_owned()).or_default().help = help.to_owned();
        } else if let Some(kind) = line.strip_prefix("# TYPE ") {
            let (name, kind) = kind.split_once(' ').unwrap();
            families.entry(name.to_owned()).or_default().kind = kind.to_owned();
        } else if let Some((sample, labels)) = line.split_once('{') {
            let (labels, _) = labels.rsplit_once('}').unwrap();
            let name = ["_bucket", "_sum", "_count"].iter().find_map(|end| sample.strip_suffix(end)).unwrap_or(sample);
            let family = families.get_mut(name).or(None);
            let names = labels.split("\",").filter_map(|label| label.split_once('=')).map(|(name, _)| name.to_owned());
            family.unwrap().labels.extend(names.filter(|name| name != "le"));
        }
    }
    families
}

/// The value of a sample as it is written.
fn sample<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))
}

/// Something of everything that is counted.
async fn use_everything(client: &Client) {
    create(client, "used", 1, &[]).await;
    let write = |expected_offset| pb::ProduceRequest {
        topic: "used".to_owned(),
        partition: Some(0),
        records: vec![record("x")],
        expected_offset,
        ..Default::default()
    };
    client.producer().produce(write(None)).await.unwrap();
    client.producer().produce(write(Some(70))).await.unwrap_err();
    assert_eq!(read_all(client, "used", 0).await.len(), 1);
}

/// `UPDATE_GOLDEN=1` rewrites the table.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_metric_of_every_process_is_documented_and_no_other() {
    let (_dir, data) = place();
    let (standalone, cluster) = (Server::start(&data.with_extension("one")), Cluster::start(&data));
    for client in [standalone.client(), cluster.client()] {
        use_everything(&client).await;
    }
    let mut by_process: BTreeMap<String, (Family, Vec<&str>)> = BTreeMap::new();
    for (process, admin) in cluster.admins() {
        for (name, family) in families(body(&get_from(&admin, "/metrics"))) {
            let (known, processes) = by_process.entry(name.clone()).or_insert_with(|| (family.clone(), Vec::new()));
            assert_eq!((&known.kind, &known.help), (&family.kind, &family.help), "{name} means one thing");
            known.labels.extend(family.labels);
            processes.push(process);
        }
    }
    let alone: Vec<_> = families(body(&get(&standalone, "/metrics"))).into_keys().collect();
    assert_eq!(alone, by_process.keys().cloned().collect::<Vec<_>>(), "one process has the metrics of all three");

    let mut table = String::from("| metric | type | labels | of | says |\n|---|---|---|---|---|\n");
    for (name, (family, processes)) in &by_process {
        let Family { kind, help, labels } = family;
        assert_eq!(name.ends_with("_total"), kind == "counter", "{name} is a {kind}");
        assert!(kind != "histogram" || name.ends_with("_seconds"), "{name} has no unit");
        let labels: Vec<_> = labels.iter().map(|label| format!("`{label}`")).collect();
        let processes = if processes.len() == 3 { "all".to_owned() } else { processes.join(", ") };
        writeln!(table, "| `{name}` | {kind} | {} | {processes} | {help} |", labels.join(" ")).unwrap();
    }
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/operations.md");
    let text = std::fs::read_to_string(path).unwrap();
    let (before, rest) = text.split_once("<!-- metrics -->\n").unwrap();
    let (_, after) = rest.split_once("<!-- end of metrics -->").unwrap();
    let expected = format!("{before}<!-- metrics -->\n\n{table}\n<!-- end of metrics -->{after}");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(path, expected).unwrap();
        return;
    }
    assert_eq!(text, expected, "run this test with UPDATE_GOLDEN=1");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_are_counted_by_method_and_reason_and_records_by_topic() {
    let (_dir, data) = place();
    let server = Server::start_with(&data, &["--set", "gateway.metrics.topics.max=1"]);
    let client = server.client();
    use_everything(&client).await;
    create(&client, "another", 3, &[]).await;
    let write = pb::ProduceRequest { topic: "another".to_owned(), records: vec![record("x")], ..Default::default() };
    client.producer().produce(write).await.unwrap();

    let text = get(&server, "/metrics");
    let calls = |method: &str, code: &str, reason: &str| {
        let labels = format!("error_type=\"{reason}\",rpc_method=\"{method}\",rpc_response_status_code=\"{code}\"");
        sample(&text, &format!("rpc_server_call_duration_seconds_count{{{labels}}}"))
    };
    assert_eq!(calls("walser.v1.ProducerService/Produce", "OK", ""), Some("2"), "{text}");
    assert_eq!(calls("walser.v1.ProducerService/Produce", "ABORTED", "OFFSET_MISMATCH"), Some("1"), "{text}");
    assert_eq!(calls("walser.v1.ConsumerService/Read", "OK", ""), Some("1"), "{text}");
    assert_eq!(sample(&text, "walser_gateway_produce_records_total{topic=\"used\"}"), Some("1"), "{text}");
    assert_eq!(sample(&text, "walser_gateway_produce_records_total{topic=\"__other\"}"), Some("1"), "{text}");
    assert_eq!(sample(&text, "walser_gateway_produce_failures_total{reason=\"OFFSET_MISMATCH\"}"), Some("1"));
    assert_eq!(sample(&text, "walser_storage_append_refused_total{reason=\"OFFSET_MISMATCH\"}"), Some("1"));
    assert_eq!(sample(&text, "walser_storage_append_records_total"), Some("2"));

    let counted = async |name: &str, value: &str| {
        let shown = async || sample(&get(&server, "/metrics"), name) == Some(value);
        until(shown, &format!("{name} is {value}")).await;
    };
    counted("walser_controller_topics", "2").await;
    counted("walser_controller_partitions", "4").await;
    counted("walser_controller_partitions_without_leader", "0").await;
    counted("walser_controller_nodes{state=\"active\"}", "1").await;
}
