use std::path::Path;
use std::time::{Duration, SystemTime};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::*;
use crate::authority::{Authority, Purpose};
use crate::client::{ClientTls, ClientTlsFiles};
use crate::trouble::in_words;

const DAY: Duration = Duration::from_secs(86_400);

/// Seconds since the epoch, so many days from now.
fn days_from_now(days: i64) -> u64 {
    let now = SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs();
    now.checked_add_signed(days * 86_400).unwrap()
}

fn authority(name: &str) -> Authority {
    Authority::new(name, days_from_now(-400), DAY * 1000).unwrap().0
}

/// Writes a certificate of `authority` as NAME.crt and NAME.key, valid from a day on for `valid`, and what `believed` is.
fn write(dir: &Path, name: &str, authority: &Authority, purpose: &Purpose, from: i64, valid: Duration) -> TlsFiles {
    let issued = authority.issue(purpose, days_from_now(from), valid).unwrap();
    let [cert, key, ca] = ["crt", "key", "ca"].map(|kind| dir.join(format!("{name}.{kind}")));
    std::fs::write(&cert, issued.cert).unwrap();
    std::fs::write(&key, issued.key).unwrap();
    std::fs::write(&ca, authority.cert()).unwrap();
    TlsFiles { cert, key, ca: Some(ca) }
}

fn process(cluster: &str, role: ServiceRole) -> Purpose {
    Purpose::Process(PeerIdentity { cluster: cluster.to_owned(), role, id: None })
}

/// What both sides of a connection between two processes find.
async fn meet(
    dialling: &ProcessTls,
    accepting: &ProcessTls,
    role: ServiceRole,
) -> (io::Result<TlsStream<TcpStream>>, io::Result<Accepted>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let dial = async { dialling.connect(TcpStream::connect(address).await.unwrap(), role).await };
    let accept = async {
        let mut accepted = accepting.accept(listener.accept().await.unwrap().0).await?;
        // As an HTTP/2 server does.
        accepted.stream.write_all(b"!").await?;
        accepted.stream.flush().await?;
        Ok(accepted)
    };
    tokio::join!(dial, accept)
}

#[tokio::test]
async fn processes_of_a_cluster_know_each_other() {
    let (dir, ours) = (tempfile::tempdir().unwrap(), authority("ours"));
    let load = |name: &str, role| {
        ProcessTls::for_cluster(write(dir.path(), name, &ours, &process("c", role), 0, DAY), role).unwrap()
    };
    let (gateway, node) = (load("g", ServiceRole::Gateway), load("n", ServiceRole::StorageNode));
    let (dialled, accepted) = meet(&gateway, &node, ServiceRole::StorageNode).await;
    let (mut dialled, mut accepted) = (dialled.unwrap(), accepted.unwrap());
    assert_eq!(accepted.identity.unwrap().to_string(), "spiffe://c/gateway");
    dialled.write_all(b"hello").await.unwrap();
    assert_eq!(dialled.read_u8().await.unwrap(), b'!');
    let mut heard = [0; 5];
    accepted.stream.read_exact(&mut heard).await.unwrap();
    assert_eq!(&heard, b"hello");
    // Another role than was looked for has been dialled.
    let (dialled, _) = meet(&gateway, &node, ServiceRole::Controller).await;
    let refused = dialled.unwrap_err();
    assert!(refused.to_string().contains("a controller was looked for"), "{refused}");
}

#[tokio::test]
async fn strangers_are_refused_by_both_sides() {
    let dir = tempfile::tempdir().unwrap();
    let (ours, theirs, node) = (authority("ours"), authority("theirs"), ServiceRole::StorageNode);
    let load = |name: &str, authority: &Authority, purpose: &Purpose, from: i64| {
        ProcessTls::load(write(dir.path(), name, authority, purpose, from, DAY * 10), Kind::Cluster).unwrap()
    };
    let good = load("good", &ours, &process("c", node), 0);
    for (what, stranger) in [
        ("another authority", load("theirs", &theirs, &process("c", node), 0)),
        ("another cluster", load("other", &ours, &process("d", node), 0)),
        ("expired", load("old", &ours, &process("c", node), -100)),
        ("no process", load("web", &ours, &Purpose::Peer(vec!["localhost".to_owned()]), 0)),
    ] {
        assert!(meet(&good, &stranger, node).await.0.is_err(), "{what} was dialled");
        assert!(meet(&stranger, &good, node).await.1.is_err(), "{what} was let in");
    }
    let (dialled, _) = meet(&good, &load("old", &ours, &process("c", node), -100), node).await;
    assert_eq!(dialled.unwrap_err().to_string(), "the other side's certificate has expired");
}

#[test]
fn a_certificate_of_a_client_is_none_of_a_server() {
    let (dir, ours) = (tempfile::tempdir().unwrap(), authority("ours"));
    let client = write(dir.path(), "client", &ours, &Purpose::Client("me".to_owned()), 0, DAY);
    let refused = ProcessTls::for_clients(client).unwrap_err().to_string();
    assert!(refused.contains("serverAuth"), "{refused}");
}

#[tokio::test]
async fn new_files_are_taken_and_bad_ones_are_not() {
    let (dir, ours, role) = (tempfile::tempdir().unwrap(), authority("ours"), ServiceRole::Gateway);
    let files = write(dir.path(), "g", &ours, &process("c", role), 0, DAY);
    let tls = ProcessTls::for_cluster(files.clone(), role).unwrap();
    assert!(!tls.refresh().unwrap(), "nothing has changed");
    let before = tls.not_after();
    // Only one of two files is new: they do not fit.
    let other = write(dir.path(), "other", &ours, &process("c", role), 0, DAY * 2);
    std::fs::copy(&other.cert, &files.cert).unwrap();
    assert!(tls.refresh().unwrap_err().to_string().contains("not the key of"));
    assert_eq!(tls.not_after(), before);
    std::fs::copy(&other.key, &files.key).unwrap();
    assert!(tls.refresh().unwrap());
    assert!(tls.not_after() > before);
    write(dir.path(), "g", &ours, &process("c", role), -10, DAY);
    assert!(tls.refresh().unwrap_err().to_string().contains("has expired, and the one in use has not"));
    let stranger = authority("theirs").issue(&process("c", role), days_from_now(0), DAY).unwrap();
    std::fs::write(&files.cert, stranger.cert).unwrap();
    std::fs::write(&files.key, stranger.key).unwrap();
    assert!(tls.refresh().unwrap_err().to_string().contains("no authority in the file beside it"));
    std::fs::write(&files.cert, "").unwrap();
    assert!(tls.refresh().unwrap_err().to_string().contains("no certificate"));
    write(dir.path(), "g", &ours, &process("d", role), 0, DAY);
    assert!(tls.refresh().unwrap_err().to_string().contains("has begun as spiffe://c/gateway"));
    let (dialled, accepted) = meet(&tls, &tls, role).await;
    assert!(dialled.is_ok() && accepted.is_ok(), "what was loaded before is used");
}

/// What a client that dials a server by this name reads of it, or is told.
async fn said(server: &ProcessTls, client: ClientTls, host: &str) -> Result<u8, String> {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let dial = async {
        let mut stream = client.connect(TcpStream::connect(address).await.unwrap(), host).await?;
        stream.read_u8().await
    };
    let accept = async {
        let mut accepted = server.accept(listener.accept().await.unwrap().0).await?;
        accepted.stream.write_u8(7).await?;
        accepted.stream.flush().await
    };
    let (dialled, _) = tokio::join!(dial, accept);
    dialled.map_err(|error| in_words(&error).unwrap_or_else(|| error.to_string()))
}

#[tokio::test]
async fn a_client_shows_and_believes_what_its_files_have_at_each_connection() {
    let (dir, ours) = (tempfile::tempdir().unwrap(), authority("ours"));
    let server = Purpose::Server(vec!["localhost".to_owned()]);
    let asking = write(dir.path(), "asking", &ours, &server, 0, DAY);
    let ca = asking.ca.clone().unwrap();
    let expired = write(dir.path(), "client", &ours, &Purpose::Client("me".to_owned()), -10, DAY);
    let asking = ProcessTls::for_clients(asking).unwrap();
    let own = Some((expired.cert.clone(), expired.key.clone()));
    let client = ClientTls::load(&ClientTlsFiles { ca: Some(ca.clone()), own, server_name: None }).unwrap();
    let refused = said(&asking, client.clone(), "localhost").await.unwrap_err();
    assert!(refused.contains("expired"), "{refused}");
    write(dir.path(), "client", &ours, &Purpose::Client("me".to_owned()), 0, DAY);
    assert_eq!(said(&asking, client.clone(), "localhost").await, Ok(7), "it was renewed");
    std::fs::write(&expired.cert, "half of").unwrap();
    assert_eq!(said(&asking, client.clone(), "localhost").await, Ok(7), "it is being replaced");
    write(dir.path(), "client", &ours, &Purpose::Client("me".to_owned()), 0, DAY);
    std::fs::write(&ca, authority("theirs").cert()).unwrap();
    let refused = said(&asking, client, "localhost").await.unwrap_err();
    assert!(refused.contains("authority that is not believed"), "{refused}");
}

#[tokio::test]
async fn a_client_is_told_what_is_wrong() {
    let (dir, ours) = (tempfile::tempdir().unwrap(), authority("ours"));
    let server = Purpose::Server(vec!["localhost".to_owned()]);
    let asking_files = write(dir.path(), "asking", &ours, &server, 0, DAY);
    let (with, without) = (asking_files.clone(), TlsFiles { ca: None, ..asking_files.clone() });
    let client = write(dir.path(), "client", &ours, &Purpose::Client("me".to_owned()), 0, DAY);
    let (open, asking) = (ProcessTls::for_clients(without).unwrap(), ProcessTls::for_clients(with.clone()).unwrap());
    let other = write(dir.path(), "other", &authority("theirs"), &server, 0, DAY);
    let load = |ca: &TlsFiles, own: Option<&TlsFiles>, server_name: Option<&str>| {
        let own = own.map(|files| (files.cert.clone(), files.key.clone()));
        let server_name = server_name.map(str::to_owned);
        ClientTls::load(&ClientTlsFiles { ca: ca.ca.clone(), own, server_name }).unwrap()
    };
    assert_eq!(said(&open, load(&with, None, None), "localhost").await, Ok(7));
    assert_eq!(said(&open, load(&with, None, Some("localhost")), "10.0.0.7").await, Ok(7));
    assert_eq!(said(&asking, load(&with, Some(&client), None), "localhost").await, Ok(7));
    let wrong = said(&open, load(&other, None, None), "localhost").await.unwrap_err();
    assert!(wrong.contains("authority that is not believed"), "{wrong}");
    let wrong = said(&open, load(&with, None, None), "example.org").await.unwrap_err();
    assert!(wrong.contains("is for other names"), "{wrong}");
    let wrong = said(&asking, load(&with, None, None), "localhost").await.unwrap_err();
    assert!(wrong.contains("wants a certificate"), "{wrong}");
    let stranger = write(dir.path(), "x", &authority("theirs"), &Purpose::Client("x".to_owned()), 0, DAY);
    let wrong = said(&asking, load(&with, Some(&stranger), None), "localhost").await.unwrap_err();
    assert!(wrong.contains("does not believe our certificate"), "{wrong}");
    let wrong = said(&asking, load(&with, Some(&asking_files), None), "localhost").await.unwrap_err();
    assert!(wrong.contains("is not one of a client"), "{wrong}");
}

#[test]
fn a_public_certificate_may_be_one_of_another_system() {
    let (dir, ours) = (tempfile::tempdir().unwrap(), authority("ours"));
    let other = PeerIdentity { cluster: "mesh/ns".to_owned(), role: ServiceRole::Gateway, id: None };
    let files = write(dir.path(), "g", &ours, &Purpose::Process(other), 0, DAY);
    assert_eq!(ProcessTls::for_clients(TlsFiles { ca: None, ..files }).unwrap().identity(), None);
}

#[tokio::test(start_paused = true)]
async fn who_says_nothing_is_not_waited_for() {
    let (dir, ours) = (tempfile::tempdir().unwrap(), authority("ours"));
    let files = write(dir.path(), "s", &ours, &Purpose::Server(vec!["localhost".to_owned()]), 0, DAY);
    let server = ProcessTls::for_clients(files).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let _silent = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let refused = server.accept(listener.accept().await.unwrap().0).await.unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::TimedOut);
}

#[test]
fn files_that_cannot_be_used_are_named() {
    let (dir, ours, role) = (tempfile::tempdir().unwrap(), authority("ours"), ServiceRole::Gateway);
    let good = write(dir.path(), "g", &ours, &process("c", role), 0, DAY);
    let said = |files: TlsFiles| ProcessTls::for_cluster(files, role).unwrap_err().to_string();
    let missing = said(TlsFiles { key: dir.path().join("nothing.key"), ..good.clone() });
    assert!(missing.contains("nothing.key"), "{missing}");
    let swapped = said(TlsFiles { cert: good.key.clone(), ..good });
    assert!(swapped.contains("g.key") && swapped.contains("no certificate"), "{swapped}");
    let other = write(dir.path(), "n", &ours, &process("c", ServiceRole::StorageNode), 0, DAY);
    assert!(said(other).contains("is one of a storage-node, and this is a gateway"));
    let web = write(dir.path(), "w", &ours, &Purpose::Server(vec!["localhost".to_owned()]), 0, DAY);
    assert!(said(web).contains("names no identity"));
}
