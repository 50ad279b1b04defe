//! The same services as processes of their own: controller, storage node and gateway, over TCP.

use std::path::{Path, PathBuf};
use std::process::Command;

use walser_client::Client;
use walser_proto::v1 as pb;
use walser_rpc::{ApiError, Reason};

use crate::faults::{get_from, until};
use crate::server::{PATIENCE, Ready, cli_at, create, place, program, read_all, record, start, wait_a_little};

/// A running service; killed when it is dropped.
pub(crate) struct Service {
    pub(crate) ready: Ready,
    pub(crate) log: PathBuf,
}

impl Service {
    pub(crate) fn start(name: &str, dir: &Path, settings: &[String]) -> Self {
        Self::try_start(name, dir, settings).unwrap_or_else(|printed| panic!("{name} did not start: {printed}"))
    }

    /// The same. The error is what the process has printed before it ended.
    fn try_start(name: &str, dir: &Path, settings: &[String]) -> Result<Self, String> {
        let (ready, log) = (dir.join(name).with_extension("ready"), dir.join(name).with_extension("log"));
        let mut command = Command::new(program(name));
        command.args(settings.iter().flat_map(|setting| ["--set", setting]));
        if !settings.iter().any(|setting| setting.starts_with("listen=")) {
            command.args(["--listen", "127.0.0.1:0"]);
        }
        Ok(Self { ready: start(command, &ready, &log)?, log })
    }

    pub(crate) fn kill(mut self) {
        self.end();
    }

    /// SIGTERM; returns everything that the process printed.
    pub(crate) fn stop(self) -> String {
        signal("-TERM", &self);
        self.ended()
    }

    /// Waits for the end of a process that was told to stop; returns everything that it printed.
    pub(crate) fn ended(mut self) -> String {
        let status = self.ready.child.wait().unwrap();
        let printed = std::fs::read_to_string(&self.log).unwrap();
        assert!(status.success(), "{status}: {printed}");
        printed
    }

    fn end(&mut self) {
        let _ = self.ready.child.kill();
        let _ = self.ready.child.wait();
        assert!(!std::fs::read_to_string(&self.log).unwrap().contains("panicked"), "{}", self.log.display());
    }
}

impl Drop for Service {
    #[expect(clippy::print_stderr, reason = "a test that fails shows what its processes said")]
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return self.end();
        }
        let _ = self.ready.child.kill();
        let printed = std::fs::read_to_string(&self.log).unwrap_or_default();
        eprintln!("== what {} has printed:\n{printed}", self.log.display());
    }
}

/// Three processes and where their data lies.
pub(crate) struct Cluster {
    dir: PathBuf,
    /// What the controller has beside its data directory and its address.
    pub(crate) controller_settings: Vec<String>,
    controller: Option<Service>,
    storage: Option<Service>,
    gateway: Option<Service>,
}

impl Cluster {
    pub(crate) fn start(dir: &Path) -> Self {
        Self::start_with(dir, Vec::new())
    }

    /// The same, with a controller that has these settings.
    pub(crate) fn start_with(dir: &Path, controller_settings: Vec<String>) -> Self {
        let mut cluster = Self { controller_settings, ..Self::empty(dir) };
        cluster.start_controller("127.0.0.1:0");
        cluster.start_gateway(&cluster.controller_address());
        cluster.start_storage();
        cluster
    }

    /// A controller and a gateway.
    pub(crate) fn without_storage(dir: &Path) -> Self {
        let mut cluster = Self::empty(dir);
        cluster.start_controller("127.0.0.1:0");
        cluster.start_gateway(&cluster.controller_address());
        cluster
    }

    /// A gateway whose controller is to be at this address.
    pub(crate) fn gateway_alone(dir: &Path, controller: &str) -> Self {
        let mut cluster = Self::empty(dir);
        cluster.start_gateway(controller);
        cluster
    }

    fn empty(dir: &Path) -> Self {
        std::fs::create_dir_all(dir).unwrap();
        Self { dir: dir.to_owned(), controller_settings: Vec::new(), controller: None, storage: None, gateway: None }
    }

    fn start_gateway(&mut self, controller: &str) {
        let controller = format!("controller.address={controller}");
        self.gateway = Some(Service::start("walser-gateway", &self.dir, &[controller]));
    }

    /// Puts a gateway with other settings in place of the one that is there.
    pub(crate) fn restart_gateway(&mut self, settings: &[&str]) {
        let mut all = vec![format!("controller.address={}", self.controller_address())];
        all.extend(settings.iter().map(|setting| (*setting).to_owned()));
        self.gateway = None;
        self.gateway = Some(Service::start("walser-gateway", &self.dir, &all));
    }

    /// Everything that the gateway printed.
    pub(crate) fn gateway_log(&self) -> String {
        std::fs::read_to_string(&self.gateway.as_ref().unwrap().log).unwrap()
    }

    pub(crate) fn kill_controller(&mut self) {
        self.controller.take().unwrap().kill();
    }

    /// SIGKILL, and another one at the same address.
    pub(crate) fn restart_controller(&mut self) {
        let address = self.controller_address();
        self.kill_controller();
        self.start_controller(&address);
    }

    /// Suspends the controller, or lets it go on.
    pub(crate) fn signal_controller(&self, name: &str) {
        signal(name, self.controller.as_ref().unwrap());
    }

    /// SIGTERM; returns everything that the gateway printed.
    pub(crate) fn stop_gateway(&mut self) -> String {
        self.gateway.take().unwrap().stop()
    }

    /// SIGTERM; returns everything that the controller printed.
    pub(crate) fn stop_controller(&mut self) -> String {
        self.controller.take().unwrap().stop()
    }

    /// Stops the controller, has something done to its data directory, and starts it again at the same address.
    pub(crate) fn change_metadata(&mut self, change: impl FnOnce(&Path)) {
        let address = self.controller_address();
        self.stop_controller();
        change(&self.dir.join("controller"));
        self.start_controller(&address);
    }

    /// SIGTERM; returns everything that the storage node printed.
    pub(crate) fn stop_storage(&mut self) -> String {
        self.storage.take().unwrap().stop()
    }

    /// Sends the storage node SIGTERM, and does not wait.
    pub(crate) fn storage_told_to_stop(&mut self) -> Service {
        let storage = self.take_storage();
        signal("-TERM", &storage);
        storage
    }

    /// Sends the gateway SIGTERM, and does not wait.
    pub(crate) fn gateway_told_to_stop(&mut self) -> Service {
        let gateway = self.gateway.take().unwrap();
        signal("-TERM", &gateway);
        gateway
    }

    /// Leaves the storage node to the caller.
    pub(crate) fn take_storage(&mut self) -> Service {
        self.storage.take().unwrap()
    }

    pub(crate) fn kill_storage(&mut self) {
        self.storage.take().unwrap().kill();
    }

    /// The admin ports of those of the three that run.
    pub(crate) fn admins(&self) -> Vec<(&'static str, String)> {
        let services = [("controller", &self.controller), ("storage node", &self.storage), ("gateway", &self.gateway)];
        services.iter().filter_map(|(name, service)| Some((*name, service.as_ref()?.ready.admin.clone()))).collect()
    }

    /// The admin port of the gateway.
    pub(crate) fn gateway_admin(&self) -> String {
        self.gateway.as_ref().unwrap().ready.admin.clone()
    }

    pub(crate) fn storage_address(&self) -> String {
        self.storage.as_ref().unwrap().ready.grpc.clone()
    }

    pub(crate) fn controller_address(&self) -> String {
        self.controller.as_ref().unwrap().ready.grpc.clone()
    }

    pub(crate) fn start_controller(&mut self, listen: &str) {
        let data = format!("controller.data={}", self.dir.join("controller").display());
        let own = [data, format!("listen={listen}")];
        let settings: Vec<_> = own.into_iter().chain(self.controller_settings.iter().cloned()).collect();
        self.controller = Some(Service::start("walser-controller", &self.dir, &settings));
    }

    /// At another port each time: the gateway hears of it from the controller.
    pub(crate) fn start_storage(&mut self) {
        let data = format!("storage.data={}", self.dir.join("storage").display());
        let settings = [data, format!("controller.address={}", self.controller_address())];
        self.storage = Some(Service::start("walser-storage-node", &self.dir, &settings));
    }

    /// Where the files of one more storage node lie.
    pub(crate) fn node_dir(&self, number: i32) -> PathBuf {
        self.dir.join(format!("node-{number}"))
    }

    /// One more storage node, beside that of the cluster, which has id 1.
    pub(crate) fn another_node(&self, number: i32) -> Service {
        let started = self.try_another_node(number);
        started.unwrap_or_else(|printed| panic!("storage node {number} did not start: {printed}"))
    }

    /// The same. The error is what the process has printed before it ended.
    pub(crate) fn try_another_node(&self, number: i32) -> Result<Service, String> {
        self.try_node_with(number, &[])
    }

    /// The same, with more settings.
    pub(crate) fn try_node_with(&self, number: i32, more: &[&str]) -> Result<Service, String> {
        let dir = self.node_dir(number);
        std::fs::create_dir_all(&dir).unwrap();
        let mut settings = vec![
            format!("storage.data={}", dir.join("storage").display()),
            format!("storage.node.id={number}"),
            format!("controller.address={}", self.controller_address()),
        ];
        settings.extend(more.iter().map(|setting| (*setting).to_owned()));
        Service::try_start("walser-storage-node", &dir, &settings)
    }

    /// Where clients connect.
    pub(crate) fn address(&self) -> String {
        self.gateway.as_ref().unwrap().ready.grpc.clone()
    }

    pub(crate) fn client(&self) -> Client {
        Client::new(&self.gateway.as_ref().unwrap().ready.grpc).unwrap()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_storage_node_killed_under_load_loses_and_repeats_nothing() {
    let (_dir, data) = place();
    let mut cluster = Cluster::start(&data);
    let client = cluster.client();
    create(&client, "t", 2, &[]).await;
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..4 {
        let client = cluster.client();
        writers.spawn(async move {
            for number in 0..300 {
                let request = pb::ProduceRequest {
                    topic: "t".to_owned(),
                    partition: Some(writer % 2),
                    records: vec![record(format!("{writer}/{number}"))],
                    ..Default::default()
                };
                client.producer().produce(request).await.unwrap();
            }
        });
    }
    while read_all(&client, "t", 0).await.len() < 50 {}
    cluster.storage.take().unwrap().kill();
    cluster.start_storage();
    while let Some(written) = writers.join_next().await {
        written.unwrap();
    }
    for partition in 0..2 {
        let records = read_all(&client, "t", partition).await;
        let values: Vec<_> =
            records.iter().map(|record| String::from_utf8_lossy(record.value.as_deref().unwrap())).collect();
        for writer in [partition, partition + 2] {
            let own: Vec<_> = values.iter().filter(|value| value.starts_with(&format!("{writer}/"))).collect();
            let expected: Vec<_> = (0..300).map(|number| format!("{writer}/{number}")).collect();
            assert_eq!(own, expected.iter().collect::<Vec<_>>(), "each record once, in order");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_flow_while_the_controller_is_away() {
    let (_dir, data) = place();
    let mut cluster = Cluster::start(&data);
    let client = cluster.client();
    create(&client, "t", 1, &[]).await;
    let write = || pb::ProduceRequest { topic: "t".to_owned(), records: vec![record("x")], ..Default::default() };
    // With this the gateway has ids for producers. It has not written anything for itself yet, and knows all that it needs.
    let produce = |cluster: &Cluster| cli_at(&cluster.address(), &["produce", "t", "-t", "20"], b"x\n");
    assert!(produce(&cluster).status.success());
    let address = cluster.controller_address();
    cluster.controller.take().unwrap().kill();
    client.producer().produce(write()).await.unwrap();
    assert_eq!(read_all(&client, "t", 0).await.len(), 2);
    // A program that begins now looks the topic up first.
    let produced = produce(&cluster);
    assert!(produced.status.success(), "{produced:?}");
    let topic = pb::Topic { name: "later".to_owned(), ..Default::default() };
    let request = pb::CreateTopicRequest { topic: Some(topic), ..Default::default() };
    let refused = ApiError::from(client.topics().create_topic(request.clone()).await.unwrap_err());
    assert_eq!((refused.reason_name(), refused.code()), ("CONTROLLER_NOT_AVAILABLE", tonic::Code::Unavailable));
    cluster.start_controller(&address);
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while client.topics().create_topic(request.clone()).await.is_err() {
        assert!(tokio::time::Instant::now() < deadline, "the controller is not found again");
        wait_a_little();
    }
    assert_eq!(read_all(&client, "t", 0).await.len(), 3);
}

/// A controller with metadata of its own in the place of the cluster's: what is known goes on, and nothing that the other
/// one says passes for this cluster's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_does_not_obey_a_controller_of_another_cluster() {
    let (_dir, data) = place();
    let mut cluster = Cluster::start(&data);
    let client = cluster.client();
    create(&client, "t", 1, &[]).await;
    let write = || pb::ProduceRequest { topic: "t".to_owned(), records: vec![record("x")], ..Default::default() };
    client.producer().produce(write()).await.unwrap();
    let (address, own, aside) = (cluster.controller_address(), data.join("controller"), data.join("aside"));
    cluster.kill_controller();
    std::fs::rename(&own, &aside).unwrap();
    cluster.start_controller(&address);
    let mismatch = async |answer: Result<(), tonic::Status>| {
        answer.is_err_and(|status| ApiError::from(status).reason() == Reason::ClusterIdMismatch)
    };
    let get = pb::GetTopicRequest { name: "t".to_owned() };
    let refused = async || mismatch(client.topics().get_topic(get.clone()).await.map(drop)).await;
    until(refused, "the gateway says that the controller is not that of its cluster").await;
    assert!(mismatch(client.topics().list_topics(pb::ListTopicsRequest::default()).await.map(drop)).await);
    let missing = pb::ProduceRequest { topic: "other".to_owned(), ..write() };
    assert!(mismatch(client.producer().produce(missing).await.map(drop)).await);
    // Those that the gateway has taken before are of this cluster; then there are no more.
    let init = async || client.producer().init_producer(pb::InitProducerRequest::default()).await.map(drop);
    until(async || mismatch(init().await).await, "its ids are not those of this cluster").await;
    assert_eq!(read_all(&client, "t", 0).await.len(), 1, "what is known can be read");
    let admin = cluster.gateway_admin();
    let probe = async || get_from(&admin, "/readyz").contains("CLUSTER_ID_MISMATCH");
    until(probe, "the probe of the gateway names the reason").await;
    let health = client.cluster().get_cluster(pb::GetClusterRequest {}).await.unwrap().into_inner().cluster;
    let issues = health.unwrap().health.unwrap().issues;
    assert!(issues.iter().any(|issue| issue.code == "CLUSTER_ID_MISMATCH"), "{issues:?}");

    cluster.kill_controller();
    std::fs::remove_dir_all(&own).unwrap();
    std::fs::rename(&aside, &own).unwrap();
    cluster.start_controller(&address);
    until(async || client.topics().get_topic(get.clone()).await.is_ok(), "its own controller is obeyed again").await;
    until(async || client.producer().produce(write()).await.is_ok(), "writes go on").await;
    assert!(read_all(&client, "t", 0).await.len() >= 2);
}

/// What is not asked for is not promised.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_three_nodes_a_topic_has_one_replica_unless_it_asks_for_more() {
    let (_dir, data) = place();
    let cluster = Cluster::start(&data);
    let mut more = Vec::new();
    for number in 2..=3 {
        more.push(cluster.another_node(number));
    }
    let client = cluster.client();
    create(&client, "t", 6, &[]).await;
    let topic = client.topics().get_topic(pb::GetTopicRequest { name: "t".to_owned() }).await.unwrap().into_inner();
    assert_eq!(topic.topic.unwrap().replication_factor, 1);
    for partition in 0..6 {
        let request = pb::ProduceRequest {
            topic: "t".to_owned(),
            partition: Some(partition),
            records: vec![record("x")],
            ..Default::default()
        };
        client.producer().produce(request).await.unwrap();
    }
    let copied = |replication_factor| {
        let topic = pb::Topic { name: "copied".to_owned(), replication_factor, ..Default::default() };
        pb::CreateTopicRequest { topic: Some(topic), ..Default::default() }
    };
    let refused = ApiError::from(client.topics().create_topic(copied(4)).await.unwrap_err());
    assert_eq!(refused.reason_name(), "REPLICATION_FACTOR_TOO_HIGH", "{refused}");
    client.topics().create_topic(copied(3)).await.unwrap();
}

/// Sends a signal to a service.
pub(crate) fn signal(name: &str, service: &Service) {
    let pid = service.ready.child.id().to_string();
    assert!(Command::new("kill").args([name, &pid]).status().unwrap().success());
}

/// Waits until a node is in this state.
pub(crate) async fn node_is(client: &Client, id: i32, state: pb::NodeState) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let nodes = client.cluster().list_nodes(pb::ListNodesRequest::default()).await.unwrap().into_inner().nodes;
        if nodes.iter().any(|node| node.id == id && node.state == state as i32) {
            return;
        }
        assert!(tokio::time::Instant::now() < deadline, "never {state:?}: {nodes:?}");
        wait_a_little();
    }
}

pub(crate) fn one_record() -> pb::ProduceRequest {
    pb::ProduceRequest { topic: "t".to_owned(), records: vec![record("x")], ..Default::default() }
}

/// It has done nothing wrong: it was silent for a while, or the controller did not hear it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_node_is_fenced_and_serves_again_without_a_restart() {
    let (_dir, data) = place();
    let mut cluster = Cluster::start(&data);
    let client = cluster.client();
    create(&client, "t", 100, &[]).await;
    let first = pb::ProduceRequest { partition: Some(0), ..one_record() };
    client.producer().produce(first.clone()).await.unwrap();
    for round in 1..=2 {
        signal("-STOP", cluster.storage.as_ref().unwrap());
        node_is(&client, 1, pb::NodeState::Down).await;
        signal("-CONT", cluster.storage.as_ref().unwrap());
        node_is(&client, 1, pb::NodeState::Active).await;
        for partition in 0..100 {
            let write = pb::ProduceRequest { partition: Some(partition), ..one_record() };
            client.producer().produce(write).await.unwrap();
        }
        assert_eq!(read_all(&client, "t", 0).await.len(), 1 + round, "nothing is lost");
    }
    assert!(cluster.storage.as_mut().unwrap().ready.child.try_wait().unwrap().is_none(), "it has not stopped");
}
