//! What an operator has for finding a fault: logs that are changed while a server runs, and settings.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use walser_proto::v1 as pb;

use crate::faults::get;
use crate::server::{Server, create, place, record, values};

/// Asks an admin port as a program on this machine does. Returns the status and the body.
fn ask(admin: &str, request: &str, headers: &str, body: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(admin).unwrap();
    let length = body.len();
    write!(stream, "{request} HTTP/1.1\r\n{headers}Content-Length: {length}\r\nConnection: close\r\n\r\n{body}")
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
    (status, answer.split_once("\r\n\r\n").unwrap().1.to_owned())
}

/// The same with a host by which this machine is named.
fn local(admin: &str, request: &str, body: &str) -> (u16, String) {
    ask(admin, request, &format!("Host: {admin}\r\n"), body)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_level_is_changed_while_the_server_runs() {
    let (_dir, data) = place();
    let server = Server::start_with(&data, &["--set", "log.level=warn"]);
    let admin = &server.admin;
    assert_eq!(local(admin, "GET /log", ""), (200, "warn\n".to_owned()));
    create(&server.client(), "quiet", 1, &[]).await;
    let (status, said) = local(admin, "PUT /log?for=10m", "info,walser=debug\n");
    assert_eq!(status, 200);
    assert!(said.starts_with("info,walser=debug\nlog.level is warn, in force again in "), "{said}");
    create(&server.client(), "told", 1, &[]).await;
    let (_, recent) = local(admin, "GET /log/recent", "");
    assert!(recent.contains("log level changed") && recent.contains("\"told\""), "{recent}");
    assert!(!recent.contains("\"quiet\""), "{recent}");
    assert_eq!(local(admin, "PUT /log", "warn"), (200, "warn\n".to_owned()));
    create(&server.client(), "silent", 1, &[]).await;
    let printed = server.stop();
    assert!(printed.contains("\"told\"") && !printed.contains("\"silent\""), "standard error has the same: {printed}");
}

/// Whatever libraries say at their lowest level.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_level_logs_records_or_their_keys() {
    let (_dir, data) = place();
    let server = Server::start_with(&data, &["--set", "log.level=trace"]);
    let client = server.client();
    create(&client, "t", 1, &[]).await;
    let key = Some("a-secret-key".into());
    let records = vec![pb::Record { key, ..record("a-secret-value") }];
    let request = pb::ProduceRequest { topic: "t".to_owned(), records, ..Default::default() };
    client.producer().produce(request).await.unwrap();
    assert_eq!(values(&client, "t", 0).await, ["a-secret-value"]);
    let (_, recent) = local(&server.admin, "GET /log/recent", "");
    let printed = server.stop();
    assert!(printed.contains("TRACE") && recent.contains("TRACE"));
    assert!(!printed.contains("a-secret") && !recent.contains("a-secret"));
}

#[test]
fn a_log_level_that_is_none_is_refused_while_the_server_runs() {
    let (_dir, data) = place();
    let server = Server::start(&data);
    let admin = &server.admin;
    let long = "info,".repeat(1000) + "info";
    for (request, body, why) in [
        ("PUT /log", "loud", "\"loud\" is not a level; write one of off, error, warn, info, debug, trace"),
        ("PUT /log", "", "is not a level"),
        ("PUT /log", &long, "more than 4096 bytes"),
        ("PUT /log?for=0s", "debug", "longer than 0"),
        ("PUT /log?for=30d", "debug", "at most 7d"),
        ("PUT /log?until=now", "debug", "is not for=TIME"),
    ] {
        let (status, said) = local(admin, request, body);
        assert!(status == 400 && said.contains(why), "{request}: {status} {said}");
    }
    assert_eq!(local(admin, "GET /log", "").1, "info\n");
}

#[test]
fn settings_and_logs_are_for_callers_on_this_machine() {
    let (_dir, data) = place();
    let server = Server::start_with(&data, &["--set", "otel.endpoint=http://me:s3cret@127.0.0.1:1"]);
    let (status, settings) = local(&server.admin, "GET /settings", "");
    assert_eq!(status, 200);
    assert!(settings.contains("otel.endpoint = \"http://***@127.0.0.1:1\" # --set"), "{settings}");
    assert!(settings.contains("# log.level = \"info\" # default") && !settings.contains("s3cret"), "{settings}");
    // A page in a browser that has this address under a name of its own, and one that is open to another site.
    let page = format!("Host: {}\r\nOrigin: http://other.example\r\n", server.admin);
    for headers in ["Host: other.example:7463\r\n", &page] {
        for request in ["GET /settings", "GET /log", "GET /log/recent", "PUT /log"] {
            let (status, said) = ask(&server.admin, request, headers, "trace");
            assert!(status == 403 && said.contains("admin.remote"), "{request}: {status} {said}");
        }
    }
    assert!(get(&server, "/readyz").starts_with("HTTP/1.1 200"), "probes are for everybody");
    let open = Server::start_with(&data.with_extension("open"), &["--set", "admin.remote=true"]);
    assert_eq!(ask(&open.admin, "GET /log", "Host: other.example:7463\r\n", ""), (200, "info\n".to_owned()));
}
