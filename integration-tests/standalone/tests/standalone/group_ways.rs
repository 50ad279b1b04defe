//! The member of the README on ways that break: a gateway that is killed, connections that are reset.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command};

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use walser_client::Client;
use walser_model::{Random as _, SystemRandom};

use crate::cluster_up::Up;
use crate::group_clients::{Copy, PARTITIONS, all_is_committed, wait_for_all, write_program, write_round};
use crate::group_member::Member;
use crate::replicated::create_replicated;
use crate::server::{Server, create, place, wait_a_little};

/// Passes connections on, and resets all of them when it is told to.
struct Cutter {
    address: SocketAddr,
    cuts: watch::Sender<u32>,
}

impl Cutter {
    async fn start(to: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, cuts) = (listener.local_addr().unwrap(), watch::Sender::new(0));
        let told = cuts.subscribe();
        tokio::spawn(async move {
            while let Ok((here, _)) = listener.accept().await {
                let (to, mut cut) = (to.clone(), told.clone());
                cut.mark_unchanged();
                tokio::spawn(async move {
                    let mut here = here;
                    let Ok(mut there) = TcpStream::connect(to).await else { return };
                    tokio::select! {
                        _ = tokio::io::copy_bidirectional(&mut here, &mut there) => {}
                        _ = cut.changed() => {}
                    }
                });
            }
        });
        Self { address, cuts }
    }

    fn cut(&self) {
        self.cuts.send_modify(|count| *count += 1);
    }
}

/// Each copy is a member with a share of its own.
async fn all_share(client: &Client, copies: &[&Copy]) -> i64 {
    let mut rounds = 0;
    while copies.iter().any(|copy| copy.processed().len() < 2) {
        write_round(client, rounds).await;
        rounds += 1;
        wait_for_all(copies, rounds);
    }
    rounds
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn copies_whose_gateway_is_killed_go_on_at_the_other_one_as_the_members_that_they_were() {
    let (place, dir) = place();
    let up = Up::start(&dir);
    let addresses = [1, 2].map(|gateway| up.address("gateway", gateway, "grpc"));
    let client = Client::new(&addresses[1]).unwrap();
    write_program(place.path());
    create_replicated(&client, "work", PARTITIONS, 2).await;
    let servers = addresses.join(",");
    let [mut first, mut second] = ["a", "b"].map(|name| Copy::start(place.path(), name, &servers));
    let mut witness = Member::join(&client, "billing", "work").await;
    witness.own(2).await;
    let revoked = witness.revoked.len();
    let rounds = {
        // The witness commits nothing of its two partitions: what it has, the copies never get.
        let mut rounds = 0;
        while [&first, &second].iter().any(|copy| copy.processed().len() < 2) {
            write_round(&client, rounds).await;
            rounds += 1;
        }
        rounds
    };
    up.act_ok(&["kill", "gateway", "1"]);
    let before = [&first, &second].map(|copy| copy.processed().values().map(Vec::len).sum::<usize>());
    write_round(&client, rounds).await;
    while [&first, &second].map(|copy| copy.processed().values().map(Vec::len).sum::<usize>()) == before {
        wait_a_little();
    }
    // No member is another one: else the witness would have got, or lost, a partition meanwhile.
    witness.commit_all().await;
    assert_eq!((witness.revoked.len(), witness.owned.len()), (revoked, 2));
    witness.leave().await;
    wait_for_all(&[&first, &second], rounds + 1);
    first.stop();
    second.stop();
    all_is_committed(&client, rounds + 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn copies_whose_connections_are_reset_at_random_moments_process_everything() {
    let (place, data) = place();
    let server = Server::start(&data);
    let client = server.client();
    write_program(place.path());
    create(&client, "work", PARTITIONS, &[]).await;
    let cutter = Cutter::start(server.address.clone()).await;
    let servers = cutter.address.to_string();
    let mut copies = ["a", "b", "c"].map(|name| Copy::start(place.path(), name, &servers));
    let [a, b, c] = &copies;
    let mut rounds = all_share(&client, &[a, b, c]).await;
    for _ in 0..3 {
        let written = write_round(&client, rounds);
        let cutting = async {
            for _ in 0..8 {
                let pause = u64::from(SystemRandom.bytes()[0]) * 2;
                tokio::time::sleep(std::time::Duration::from_millis(pause)).await;
                cutter.cut();
            }
        };
        tokio::join!(written, cutting);
        rounds += 1;
        wait_for_all(&[a, b, c], rounds);
    }
    copies.iter_mut().for_each(Copy::stop);
    all_is_committed(&client, rounds).await;
    server.assert_no_panic();
}

/// nginx, which passes calls on.
struct Proxy {
    child: Child,
    address: String,
}

impl Proxy {
    fn start(dir: &Path, to: &str) -> Self {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let conf = format!(
            "daemon off; master_process off; pid nginx.pid; error_log error.log; events {{}}
             http {{ access_log off; client_max_body_size 0;
               server {{ listen {free}; http2 on; location / {{ grpc_pass grpc://{to}; }} }} }}"
        );
        std::fs::write(dir.join("nginx.conf"), conf).unwrap();
        let program =
            std::env::var("WALSER_NGINX").expect("WALSER_NGINX names no nginx; `scripts/nginx.sh` builds one");
        let mut command = Command::new(program);
        command.arg("-p").arg(dir).args(["-c", "nginx.conf", "-e", "error.log"]);
        Self { child: command.spawn().unwrap(), address: free.to_string() }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn copies_behind_nginx_share_a_topic_while_one_is_killed_and_the_server_starts_again() {
    let (place, data) = place();
    let server = Server::start(&data);
    let client = server.client();
    write_program(place.path());
    create(&client, "work", PARTITIONS, &[]).await;
    let proxy = Proxy::start(place.path(), &server.address);
    let mut copies = ["a", "b", "c"].map(|name| Copy::start(place.path(), name, &proxy.address));
    let rounds = {
        let [a, b, c] = &copies;
        all_share(&client, &[a, b, c]).await
    };
    copies[0].signal("-KILL");
    write_round(&client, rounds).await;
    wait_for_all(&copies.each_ref(), rounds + 1);
    let address = server.address.clone();
    let data = server.kill();
    let server = Server::start_with(&data, &["--listen", &address]);
    let client = server.client();
    write_round(&client, rounds + 1).await;
    wait_for_all(&copies.each_ref(), rounds + 2);
    copies[1..].iter_mut().for_each(Copy::stop);
    all_is_committed(&client, rounds + 2).await;
    server.assert_no_panic();
}
