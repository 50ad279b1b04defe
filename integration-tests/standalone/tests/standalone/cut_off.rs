//! Storage nodes that do not reach each other, while the controller, the gateway and clients reach all of them.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use walser_client::Client;
use walser_proto::v1 as pb;
use walser_rpc::{ApiError, Reason};

use crate::faults::until;
use crate::hurt_copies::{numbers, write_numbers};
use crate::replicated::{NODES, Nodes, all_in_sync, alone_in_sync, create_replicated, leader, leads};
use crate::runbook::{healthy, shows};
use crate::server::{cli_at, place, record, values, write};

/// Nobody, as the node that is cut off.
const NOBODY: i32 = 0;

/// The address that connections of a storage node come from.
fn home(node: i32) -> Ipv4Addr {
    Ipv4Addr::new(127, 0, 1, u8::try_from(node).unwrap())
}

/// Which storage node a connection comes from, if from one.
fn node_at(address: IpAddr) -> Option<i32> {
    (1..=NODES).find(|node| address == home(*node))
}

/// The network between three storage nodes: each one is reached by a port here.
struct Links {
    addresses: Vec<SocketAddr>,
    targets: watch::Sender<Vec<Option<String>>>,
    cut_off: watch::Sender<i32>,
}

impl Links {
    async fn lay() -> Self {
        let (targets, cut_off) = (watch::Sender::new(vec![None; 3]), watch::Sender::new(NOBODY));
        let mut links = Self { addresses: Vec::new(), targets, cut_off };
        for node in 1..=NODES {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            links.addresses.push(listener.local_addr().unwrap());
            tokio::spawn(pass(node, listener, links.targets.subscribe(), links.cut_off.subscribe()));
        }
        links
    }

    /// The settings with which a node is reached here, and can be told from others.
    fn settings(&self, node: i32) -> [String; 2] {
        let address = self.addresses[usize::try_from(node - 1).unwrap()];
        [format!("storage.advertise={address}"), format!("dial.from={}", home(node))]
    }

    /// Packets between a node and the other nodes are lost from now on; those of everybody else arrive.
    fn cut_off(&self, node: i32) {
        self.cut_off.send_replace(node);
    }

    fn mend(&self) {
        self.cut_off(NOBODY);
    }
}

/// Passes connections to a node on, as long as nothing between both ends is cut.
async fn pass(
    to: i32,
    listener: TcpListener,
    mut targets: watch::Receiver<Vec<Option<String>>>,
    cut_off: watch::Receiver<i32>,
) {
    let index = usize::try_from(to - 1).unwrap();
    while let Ok((mut here, from)) = listener.accept().await {
        let from = node_at(from.ip());
        let target = targets.wait_for(|targets| targets[index].is_some()).await.unwrap()[index].clone().unwrap();
        let mut cut_off = cut_off.clone();
        tokio::spawn(async move {
            let cut = |node: &i32| from.is_some_and(|from| from != to && (*node == from || *node == to));
            let Ok(mut there) = TcpStream::connect(target).await else { return };
            let passing = async {
                let _ = tokio::io::copy_bidirectional(&mut here, &mut there).await;
            };
            tokio::select! {
                biased;
                _ = cut_off.wait_for(cut) => {}
                () = passing => return,
            }
            // Nothing arrives, and nobody is told so: both ends stay open, until the network is mended.
            let _ = cut_off.wait_for(|node| !cut(node)).await;
        });
    }
}

/// Three nodes that reach each other by links that can be cut, with a topic that two replicas confirm.
async fn linked(data: &Path) -> (Nodes, Links, Client) {
    let (links, mut nodes) = (Links::lay().await, Nodes::not_started(data));
    for node in 1..=NODES {
        let settings = links.settings(node);
        nodes.restart_with(node, &settings.each_ref().map(String::as_str));
    }
    links.targets.send_replace((1..=NODES).map(|node| Some(nodes.address(node))).collect());
    let client = nodes.cluster.client();
    create_replicated(&client, "t", 1, 2).await;
    all_in_sync(&client, "t").await;
    (nodes, links, client)
}

/// Why a record that all have to confirm is not taken, if it is not.
async fn refused(client: &Client) -> Option<Reason> {
    let request = pb::ProduceRequest { topic: "t".to_owned(), records: vec![record("refused")], ..Default::default() };
    client.producer().produce(request).await.err().map(|status| ApiError::from(status).reason())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_is_cut_off_from_the_others_alone_makes_way_when_an_operator_says_so() {
    let (_dir, data) = place();
    let (nodes, links, client) = linked(&data).await;
    write_numbers(&client, 0..10).await;
    let old = leader(&client, "t").await;
    links.cut_off(old);
    alone_in_sync(&client, old).await;
    until(async || refused(&client).await == Some(Reason::NotEnoughReplicas), "writes are refused").await;
    let only_there = pb::ProduceRequest {
        topic: "t".to_owned(),
        acks: pb::Acks::Leader.into(),
        records: vec![record("only there")],
        ..Default::default()
    };
    client.producer().produce(only_there).await.unwrap();

    // What status says is done, word for word.
    let shown = shows(&nodes.cluster.address(), "PARTITIONS_UNDER_MIN_ISR").await;
    let advice = shown.split_whitespace().collect::<Vec<_>>().join(" ");
    let remedy = "walser partition elect TOPIC PARTITION --node ID --unclean --accept-loss";
    assert!(advice.contains(remedy), "{advice}");
    let next = (old % NODES + 1).to_string();
    let remedy = remedy.replace("TOPIC PARTITION", "t 0").replace("ID", &next);
    let arguments: Vec<_> = remedy.split(' ').skip(1).collect();
    let output = cli_at(&nodes.cluster.address(), &arguments, b"");
    assert!(output.status.success(), "{output:?}");
    leads(&client, next.parse().unwrap()).await;

    // The link is still cut: two of three confirm.
    write(&client, "t", 0, "10").await;
    links.mend();
    all_in_sync(&client, "t").await;
    healthy(&nodes.cluster.address()).await;
    assert_eq!(values(&client, "t", 0).await, numbers(0..11), "only what the old leader alone had is lost");
}
