//! The images: a cluster of containers on a network of its own, each hurt under load in every way that Docker knows.
//! `make test-containers` makes the images, and starts a Docker Engine where there is none.

use std::net::TcpListener;
use std::process::Command;
use std::time::Duration;

use testcontainers::core::{IntoContainerPort as _, Mount, WaitFor};
use testcontainers::runners::AsyncRunner as _;
use testcontainers::{ContainerAsync, GenericImage, ImageExt as _};
use tokio::time::Instant;
use walser_client::Client;

use crate::fault_rows::{led_by, verdict};
use crate::load::{Load, PARTITIONS};
use crate::replicated::{all_in_sync, create_replicated};
use crate::server::wait_a_little;

const PUBLIC_PORT: u16 = 7460;
const STORAGE_NODES: i32 = 3;
/// The image of etcd, and its tag; `scripts/images.sh etcd` makes it.
const ETCD_IMAGE: (&str, &str) = ("gcr.io/etcd-development/etcd", "v3.6.16");

/// What one container runs.
#[derive(Debug, Clone)]
struct Part {
    /// Its name on the network.
    name: String,
    arguments: Vec<String>,
    /// Whether it has a volume.
    keeps: bool,
    /// The port of this machine at which clients reach it.
    public: Option<u16>,
}

/// A cluster of containers.
struct Containers {
    /// The name of the network, which begins the names of containers and volumes too.
    network: String,
    running: Vec<(Part, ContainerAsync<GenericImage>)>,
}

impl Drop for Containers {
    fn drop(&mut self) {
        for (part, _) in self.running.drain(..) {
            let _ = docker(&["rm", "--force", &format!("{}-{}", self.network, part.name)]);
            if part.keeps {
                let _ = docker(&["volume", "rm", "--force", &format!("{}-{}", self.network, part.name)]);
            }
        }
        let _ = docker(&["network", "rm", &self.network]);
    }
}

fn docker(arguments: &[&str]) -> Result<String, String> {
    let output = Command::new("docker").args(arguments).output().map_err(|error| error.to_string())?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
}

/// A port of this machine that nobody has.
fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// The parts of the cluster, in the order in which they are started.
fn parts() -> Vec<Part> {
    let walser = |name: String, service: &str, listen: u16, settings: &[String]| {
        let mut arguments = vec![service.to_owned(), "--insecure".to_owned(), format!("--listen=0.0.0.0:{listen}")];
        arguments.push("--admin=0.0.0.0:7463".to_owned());
        arguments.extend(settings.iter().map(|setting| format!("--set={setting}")));
        Part { name, arguments, keeps: service == "storage-node", public: None }
    };
    let controllers = "controller.address=controller-1:7461,controller-2:7461".to_owned();
    let mut all = vec![Part { name: "etcd".to_owned(), arguments: etcd(), keeps: true, public: None }];
    let store = [
        "controller.metastore=etcd",
        "controller.etcd.endpoints=http://etcd:2379",
        "cluster.replication.factor=3",
        "cluster.min.insync.replicas=2",
    ]
    .map(str::to_owned);
    all.extend((1..=2).map(|id| walser(format!("controller-{id}"), "controller", 7461, &store)));
    all.extend((1..=STORAGE_NODES).map(|id| {
        let name = format!("storage-node-{id}");
        let own = [
            controllers.clone(),
            format!("storage.node.id={id}"),
            format!("storage.advertise={name}:7461"),
            "storage.data=/var/lib/walser/data".to_owned(),
        ];
        walser(name, "storage-node", 7461, &own)
    }));
    all.extend((1..=2).map(|id| {
        let name = format!("group-coordinator-{id}");
        let own = [controllers.clone(), format!("coordinator.advertise={name}:7461")];
        walser(name, "group-coordinator", 7461, &own)
    }));
    all.extend((1..=2).map(|id| {
        let gateway = walser(format!("gateway-{id}"), "gateway", PUBLIC_PORT, std::slice::from_ref(&controllers));
        Part { public: Some(free_port()), ..gateway }
    }));
    all
}

fn etcd() -> Vec<String> {
    [
        "/usr/local/bin/etcd",
        "--name=etcd",
        "--data-dir=/var/lib/etcd/data",
        "--listen-client-urls=http://0.0.0.0:2379",
        "--advertise-client-urls=http://etcd:2379",
        "--listen-peer-urls=http://0.0.0.0:2380",
        "--initial-advertise-peer-urls=http://etcd:2380",
        "--initial-cluster=etcd=http://etcd:2380",
    ]
    .map(str::to_owned)
    .to_vec()
}

impl Containers {
    async fn start() -> Self {
        let mut cluster = Self { network: format!("walser-test-{}", std::process::id()), running: Vec::new() };
        docker(&["network", "create", &cluster.network]).unwrap();
        for part in parts() {
            cluster.run(part).await;
        }
        cluster
    }

    /// Starts the container of a part.
    async fn run(&mut self, part: Part) {
        let (name, tag) = if part.name == "etcd" { ETCD_IMAGE } else { ("walser", "dev") };
        let full = format!("{}-{}", self.network, part.name);
        let mut request = GenericImage::new(name, tag)
            .with_wait_for(WaitFor::seconds(0))
            .with_network(&self.network)
            .with_container_name(&full)
            .with_hostname(&part.name)
            .with_cmd(part.arguments.clone());
        if part.keeps {
            let place = if part.name == "etcd" { "/var/lib/etcd" } else { "/var/lib/walser" };
            request = request.with_mount(Mount::volume_mount(&full, place));
        }
        if let Some(port) = part.public {
            request = request.with_mapped_port(port, PUBLIC_PORT.tcp());
        }
        let container = request.start().await.unwrap();
        // The others know it by its short name.
        self.cut(&part.name);
        self.join(&part.name);
        self.running.push((part, container));
    }

    fn named(&self, part: &str) -> String {
        format!("{}-{part}", self.network)
    }

    /// Takes a container from the network.
    fn cut(&self, part: &str) {
        docker(&["network", "disconnect", &self.network, &self.named(part)]).unwrap();
    }

    /// Gives it back to the network.
    fn join(&self, part: &str) {
        docker(&["network", "connect", "--alias", part, &self.network, &self.named(part)]).unwrap();
    }

    fn act(&self, action: &[&str], part: &str) {
        let name = self.named(part);
        let arguments: Vec<&str> = action.iter().copied().chain([name.as_str()]).collect();
        docker(&arguments).unwrap();
    }

    /// Puts a new container in place of one, with its volume or without.
    async fn replace(&mut self, part: &str, with_volume: bool) {
        self.act(&["stop", "--time", "30"], part);
        let found = self.running.iter().position(|(running, _)| running.name == part).unwrap();
        let (part, container) = self.running.remove(found);
        container.rm().await.unwrap();
        if part.keeps && !with_volume {
            docker(&["volume", "rm", &self.named(&part.name)]).unwrap();
        }
        self.run(part).await;
    }

    /// A client of a gateway, which is waited for.
    async fn client(&self, gateway: &str) -> Client {
        let (part, _) = self.running.iter().find(|(part, _)| part.name == gateway).unwrap();
        let client = Client::new(&format!("127.0.0.1:{}", part.public.unwrap())).unwrap();
        let begun = Instant::now();
        let nodes = || walser_proto::v1::ListNodesRequest::default();
        loop {
            let known = client.cluster().list_nodes(nodes()).await.map(|listed| listed.into_inner().nodes.len());
            if known.is_ok_and(|known| i32::try_from(known) == Ok(STORAGE_NODES)) {
                return client;
            }
            assert!(begun.elapsed() < Duration::from_secs(60), "{gateway} does not know the storage nodes");
            wait_a_little();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_of_containers_lives_through_all_that_happens_to_them() {
    let mut cluster = Containers::start().await;
    let client = cluster.client("gateway-1").await;
    create_replicated(&client, "t", PARTITIONS, 2).await;
    all_in_sync(&client, "t").await;
    let load = Load::start(&client).await;
    let all: Vec<i32> = (0..PARTITIONS).collect();
    let healed = async |client: &Client| {
        all_in_sync(client, "t").await;
        load.go_on(&all, Instant::now(), 20).await;
    };
    load.go_on(&all, Instant::now(), 20).await;
    let (hurt, heal) = (["kill", "pause", "cut"], ["start", "unpause", "join"]);
    for (node, (hurt, heal)) in hurt.into_iter().zip(heal).enumerate() {
        let node = i32::try_from(node).unwrap() + 1;
        let (led, name) = (led_by(&client, node, true).await, format!("storage-node-{node}"));
        let since = Instant::now();
        match hurt {
            "cut" => cluster.cut(&name),
            action => cluster.act(&[action], &name),
        }
        // Others lead what it led.
        load.go_on(&led, since + Duration::from_millis(100), 50).await;
        match heal {
            "join" => cluster.join(&name),
            action => cluster.act(&[action], &name),
        }
        healed(&client).await;
    }
    for (name, with_volume) in [("storage-node-1", true), ("storage-node-2", false)] {
        cluster.replace(name, with_volume).await;
        healed(&client).await;
    }
    for name in ["controller-1", "group-coordinator-1", "gateway-2"] {
        cluster.act(&["kill"], name);
        load.go_on(&all, Instant::now(), 50).await;
        cluster.act(&["start"], name);
        healed(&client).await;
    }
    let rolled = parts().into_iter().map(|part| part.name).filter(|name| name != "etcd" && name != "gateway-1");
    for name in rolled {
        cluster.replace(&name, true).await;
        healed(&client).await;
    }
    let other = cluster.client("gateway-2").await;
    let records = load.judge(&other).await;
    verdict(0, &format!("containers: {records} records, 0 lost, 0 twice, in order"));
}
