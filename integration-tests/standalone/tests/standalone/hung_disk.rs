//! Disks that hang: they give no error, and nothing that waits for them ends.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::cluster_up::Up;
use crate::faults::until;
use crate::replicated::{all_in_sync, create_replicated, leader, partitions};
use crate::runbook::{healthy, shows};
use crate::server::{binary, place, values, write};

/// Where it is said which disks hang.
struct Disks(PathBuf);

impl Disks {
    fn hang(&self, node: i32) {
        std::fs::write(self.0.join(node.to_string()), "").unwrap();
    }

    fn go_on(&self, node: i32) {
        std::fs::remove_file(self.0.join(node.to_string())).unwrap();
    }
}

/// A program in the place of `walser` whose disks may hang.
fn program(dir: &Path) -> (PathBuf, Disks) {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("shims/hung_disk.c");
    let (shim, script, flags) = (dir.join("hung_disk.so"), dir.join("walser"), dir.join("hung"));
    let built = Command::new("cc").args(["-shared", "-fPIC", "-O1", "-o"]).arg(&shim).arg(source).arg("-ldl").status();
    assert!(built.unwrap().success(), "a C compiler builds the shim");
    std::fs::create_dir(&flags).unwrap();
    let lines = [
        "#!/bin/sh".to_owned(),
        format!("export LD_PRELOAD='{}' HUNG_DISKS='{}'", shim.display(), flags.display()),
        "export WALSER_STORAGE_DISK_STALL_MS=2000".to_owned(),
        format!("exec '{}' \"$@\"", binary().display()),
    ];
    std::fs::write(&script, lines.join("\n")).unwrap();
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
    (script, Disks(flags))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_whose_disk_hangs_steps_back_until_it_goes_on() {
    let (dir, data) = place();
    let (program, disks) = program(dir.path());
    let up = Up::start_program(&program, &data, &["--metastore", "embedded"]);
    let (address, client) = (up.server(), up.client());
    create_replicated(&client, "t", 1, 2).await;
    all_in_sync(&client, "t").await;
    write(&client, "t", 0, "before").await;
    let hung = leader(&client, "t").await;
    disks.hang(hung);
    write(&client, "t", 0, "acknowledged by others").await;
    assert_ne!(leader(&client, "t").await, hung);
    let text = shows(&address, "NODE_DOWN").await;
    assert!(text.contains(&format!("storage node {hung} is down")), "{text}");
    let text = shows(&address, "DATA_DIRECTORY_FAILED").await;
    assert!(text.contains("it hangs: a read, write or sync has not ended"), "{text}");
    disks.go_on(hung);
    healthy(&address).await;
    all_in_sync(&client, "t").await;
    assert_eq!(values(&client, "t", 0).await, ["before", "acknowledged by others"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_elected_while_its_disk_hangs_gives_way_to_another_one() {
    let (dir, data) = place();
    let (program, disks) = program(dir.path());
    let up = Up::start_program(&program, &data, &["--metastore", "embedded"]);
    let (address, client) = (up.server(), up.client());
    create_replicated(&client, "t", 6, 1).await;
    all_in_sync(&client, "t").await;
    let (gone, hung) = (1, 2);
    disks.hang(hung);
    up.act_ok(&["kill", "storage-node", &gone.to_string()]);
    for partition in 0..6 {
        write(&client, "t", partition, "acknowledged").await;
    }
    let led_by = async || partitions(&client, "t").await.iter().map(|partition| partition.leader).collect::<Vec<_>>();
    until(async || led_by().await == [Some(3); 6], "the only one that is left leads all").await;
    disks.go_on(hung);
    up.act_ok(&["start", "storage-node"]);
    healthy(&address).await;
    all_in_sync(&client, "t").await;
}
