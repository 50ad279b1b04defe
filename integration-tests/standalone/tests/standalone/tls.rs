//! TLS at the public port and between the processes of a cluster, with certificates that `walser tls dev` has made.

use std::path::{Path, PathBuf};
use std::process::Command;

use tonic::transport::{Channel, Endpoint};
use walser_client::{ApiError, Client, Reason};
use walser_proto::internal::v1 as pbi;
use walser_proto::internal::v1::controller_service_client::ControllerServiceClient;
use walser_proto::internal::v1::storage_service_client::StorageServiceClient;
use walser_tls::{ClientTls, ClientTlsFiles, Connector, ProcessTls, ServiceRole, TlsFiles};

use crate::cluster_up::Up;
use crate::server::{Server, binary, cli_at, create, place, values, wait_a_little, write};

/// Certificates for development in a directory.
struct Made(PathBuf);

impl Made {
    fn new(dir: &Path) -> Self {
        let made = Command::new(binary()).args(["tls", "dev"]).arg(dir).output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        Self(dir.to_owned())
    }

    fn path(&self, file: &str) -> String {
        self.0.join(file).display().to_string()
    }

    /// Arguments of a server with these certificates.
    fn of_server(&self) -> Vec<String> {
        let setting = |name: &str, file: &str| ["--set".to_owned(), format!("{name}={}", self.path(file))];
        [setting("tls.cert.file", "server.crt"), setting("tls.key.file", "server.key")].concat()
    }

    fn start_server(&self, data: &Path, more: &[&str]) -> Server {
        let arguments = self.of_server();
        let all: Vec<&str> = arguments.iter().map(String::as_str).chain(more.iter().copied()).collect();
        Server::start_with(data, &all)
    }

    /// A client that believes these certificates.
    fn client(&self, server: &str) -> Client {
        let ca = Some(PathBuf::from(self.path("ca.crt")));
        let files = ClientTlsFiles { ca, ..ClientTlsFiles::default() };
        Client::with_tls(server, ClientTls::load(&files).unwrap()).unwrap()
    }
}

/// What a command says on standard error, and its exit code.
fn refused(address: &str, arguments: &[&str]) -> (String, Option<i32>) {
    let output = cli_at(address, arguments, b"");
    assert!(!output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stdout));
    (String::from_utf8(output.stderr).unwrap(), output.status.code())
}

#[test]
fn commands_and_stock_clients_talk_to_a_server_with_tls() {
    let (_place, dir) = place();
    let (made, other) = (Made::new(&dir.join("tls")), Made::new(&dir.join("other")));
    let server = made.start_server(&dir.join("data"), &[]);
    let (ca, other_ca) = (made.path("ca.crt"), other.path("ca.crt"));
    let produced = cli_at(&server.address, &["produce", "orders", "first", "--tls-ca", &ca], b"");
    assert!(produced.status.success(), "{}", String::from_utf8_lossy(&produced.stderr));
    let read = cli_at(&server.address, &["consume", "orders", "--from", "earliest", "-n", "1", "--tls-ca", &ca], b"");
    assert!(String::from_utf8_lossy(&read.stdout).contains("first"), "{read:?}");
    let (said, code) = refused(&server.address, &["topic", "list"]);
    assert!(
        said.contains("speaks TLS, and was spoken to without") && said.contains("--tls-ca") && code == Some(7),
        "{said} {code:?}"
    );
    let (said, code) = refused(&server.address, &["topic", "list", "--tls-ca", &other_ca]);
    assert!(said.contains("authority that is not believed") && code == Some(7), "{said} {code:?}");
    let (said, _) = refused(&server.address, &["topic", "list", "--tls-ca", &ca, "--tls-server-name", "example.org"]);
    assert!(said.contains("for other names") && said.contains("--tls-server-name"), "{said}");
    let (said, code) = refused(&server.address, &["topic", "list", "--tls-ca", "/nowhere/ca.crt"]);
    assert!(said.contains("/nowhere/ca.crt") && code == Some(2), "{said} {code:?}");
    if let Some(grpcurl) = std::env::var_os("WALSER_GRPCURL") {
        let asked = Command::new(grpcurl).args(["-cacert", &ca, &server.address, "list"]).output().unwrap();
        assert!(String::from_utf8_lossy(&asked.stdout).contains("walser.v1.TopicService"), "{asked:?}");
    }
    server.assert_no_panic();
}

#[test]
fn a_client_with_tls_is_told_that_the_server_has_none() {
    let (_place, dir) = place();
    let (made, server) = (Made::new(&dir.join("tls")), Server::start(&dir.join("data")));
    let (said, code) = refused(&server.address, &["topic", "list", "--tls-ca", &made.path("ca.crt")]);
    assert!(said.contains("does not speak TLS") && said.contains("--tls") && code == Some(7), "{said} {code:?}");
}

#[test]
fn a_server_that_asks_for_certificates_takes_only_those_of_its_authority() {
    let (_place, dir) = place();
    let (made, other) = (Made::new(&dir.join("tls")), Made::new(&dir.join("other")));
    let ca = made.path("ca.crt");
    let asking = format!("tls.client.ca.file={ca}");
    let server = made.start_server(&dir.join("data"), &["--set", &asking]);
    let with = |made: &Made| {
        let (cert, key) = (made.path("client.crt"), made.path("client.key"));
        ["topic", "list", "--tls-ca", &ca, "--tls-cert", &cert, "--tls-key", &key].map(str::to_owned)
    };
    let list = with(&made);
    let listed = cli_at(&server.address, &list.each_ref().map(String::as_str), b"");
    assert!(listed.status.success(), "{}", String::from_utf8_lossy(&listed.stderr));
    let (said, code) = refused(&server.address, &["topic", "list", "--tls-ca", &ca]);
    assert!(said.contains("wants a certificate") && said.contains("--tls-cert") && code == Some(7), "{said} {code:?}");
    let (said, code) = refused(&server.address, &with(&other).each_ref().map(String::as_str));
    assert!(said.contains("does not believe our certificate") && code == Some(7), "{said} {code:?}");
    assert_eq!(server.logged("a TLS handshake failed; others are told at most every 10 s").len(), 1);
}

#[test]
fn addresses_of_other_machines_need_tls_or_a_word() {
    let (_place, dir) = place();
    let made = Made::new(&dir.join("tls"));
    let arguments = made.of_server();
    let with_tls: Vec<&str> = arguments.iter().map(String::as_str).chain(["--listen", "0.0.0.0:0"]).collect();
    let without = Server::try_start(&dir.join("data"), &["--listen", "0.0.0.0:0"]);
    let said = without.err().unwrap();
    assert!(said.contains("there is no TLS") && said.contains("tls.cert.file"), "{said}");
    drop(Server::start_with(&dir.join("data"), &with_tls));
    let half = Server::try_start(&dir.join("data"), &with_tls[..2]).err().unwrap();
    assert!(half.contains("tls.key.file is missing"), "{half}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn new_certificates_are_taken_without_a_restart_and_streams_go_on() {
    let (_place, dir) = place();
    let (made, next) = (Made::new(&dir.join("tls")), Made::new(&dir.join("next")));
    let server = made.start_server(&dir.join("data"), &["--set", "tls.reload.interval.ms=100"]);
    let before = made.client(&server.address);
    create(&before, "orders", 1, &[]).await;
    write(&before, "orders", 0, "first").await;
    for file in ["server.crt", "server.key"] {
        std::fs::copy(next.path(file), made.path(file)).unwrap();
    }
    let after = next.client(&server.address);
    while after.topics().list_topics(walser_proto::v1::ListTopicsRequest::default()).await.is_err() {
        wait_a_little();
    }
    write(&before, "orders", 0, "second").await;
    assert_eq!(values(&after, "orders", 0).await, ["first", "second"]);
    // Half of a change is no change.
    std::fs::write(made.path("server.crt"), "").unwrap();
    let told = "new certificates cannot be used, the old ones stay";
    while server.logged(told).is_empty() {
        wait_a_little();
    }
    assert_eq!(values(&next.client(&server.address), "orders", 0).await, ["first", "second"]);
    server.assert_no_panic();
}

/// A channel to a process of a cluster, as one of this role would open it.
fn as_process(dir: &Path, own: &str, role: ServiceRole, address: &str) -> Channel {
    let role_of_own = ServiceRole::ALL.into_iter().find(|role| role.name() == own).unwrap();
    let path = |name: &str| dir.join("tls").join(name);
    let (cert, key) = (path(&format!("{own}.crt")), path(&format!("{own}.key")));
    let files = TlsFiles { cert, key, ca: Some(path("internal-ca.crt")) };
    let tls = ProcessTls::for_cluster(files, role_of_own).unwrap();
    let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
    endpoint.connect_with_connector_lazy(Connector::to_cluster(tls, role, None))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_with_tls_lets_each_process_do_what_its_role_is_for() {
    let (_place, dir) = place();
    let up = Up::start_with(&dir, &["--tls"]);
    let made = Made(dir.join("tls"));
    let client = made.client(&up.server());
    create(&client, "orders", 3, &[]).await;
    for partition in 0..3 {
        write(&client, "orders", partition, "kept").await;
    }
    // The lead moves, and the follower copies, over TLS.
    up.act_ok(&["kill", "storage-node", "1"]);
    for partition in 0..3 {
        write(&client, "orders", partition, "after").await;
    }
    up.act_ok(&["start", "storage-node", "1"]);
    let controller = up.address("controller", 1, "internal");
    let calls = |own| ControllerServiceClient::new(as_process(&dir, own, ServiceRole::Controller, &controller));
    let refused = calls("gateway").register_node(pbi::RegisterNodeRequest::default()).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::PermissionDenied, "{refused}");
    assert_eq!(ApiError::from(refused).reason(), Reason::ClusterAccessDenied);
    let answered = calls("storage-node").register_node(pbi::RegisterNodeRequest::default()).await.unwrap_err();
    assert_eq!(ApiError::from(answered).reason(), Reason::FieldInvalid, "it may call, and says nothing of use");
    let node = up.address("storage-node", 2, "internal");
    let mut storage = StorageServiceClient::new(as_process(&dir, "controller", ServiceRole::StorageNode, &node));
    let refused = storage.list_set_aside(pbi::ListSetAsideRequest::default()).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::PermissionDenied, "{refused}");
    // Without certificates nothing is said at all.
    let plain = Endpoint::from_shared(format!("http://{node}")).unwrap().connect_lazy();
    let refused = StorageServiceClient::new(plain).list_set_aside(pbi::ListSetAsideRequest::default()).await;
    let refused = ApiError::from(refused.unwrap_err());
    assert_eq!(refused.message(), "TLS: the other side speaks TLS, and was spoken to without");
    // TLS is remembered.
    drop(up);
    let up = Up::start(&dir);
    let client = made.client(&up.server());
    for partition in 0..3 {
        assert_eq!(values(&client, "orders", partition).await, ["kept", "after"]);
    }
}
