//! The README as a newcomer follows it: its blocks are run as they stand, and print what it says.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::cluster_up::Up;
use crate::server::{Server, binary, place};

/// A fenced block, by the language that it names.
#[derive(Debug, PartialEq)]
struct Block {
    language: String,
    text: String,
}

fn blocks(text: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if let Some(language) = line.strip_prefix("```") {
            let text: Vec<&str> = lines.by_ref().take_while(|line| *line != "```").collect();
            blocks.push(Block { language: language.to_owned(), text: text.join("\n") });
        }
    }
    blocks
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

/// What differs from run to run: times, rates and sizes on disk.
fn settled(text: &str) -> String {
    let settle = |word: &str| {
        let digits = word.chars().filter(char::is_ascii_digit).count();
        let number = !word.is_empty() && word.chars().all(|character| character.is_ascii_digit() || character == ',');
        if number && digits > 1 { "N".to_owned() } else { word.to_owned() }
    };
    let line = |line: &str| {
        let line = match (line.find("\"timestamp\":"), line.find(",\"key\"")) {
            (Some(from), Some(to)) => format!("{}\"timestamp\":N{}", &line[..from], &line[to..]),
            _ => line.to_owned(),
        };
        line.split_whitespace().map(settle).collect::<Vec<_>>().join(" ")
    };
    text.lines().map(line).collect::<Vec<_>>().join("\n")
}

/// A clone as the first block leaves it: the program is built, and `cargo` has nothing more to do.
struct Clone {
    directory: PathBuf,
    install: String,
    server: String,
}

impl Clone {
    fn new(place: &Path, install: &Block, server: &str) -> Self {
        let directory = place.join("clone");
        std::fs::create_dir_all(directory.join("target/release")).unwrap();
        std::fs::create_dir_all(directory.join("stub")).unwrap();
        std::os::unix::fs::symlink(binary(), directory.join("target/release/walser")).unwrap();
        let cargo = directory.join("stub/cargo");
        std::fs::write(&cargo, "#!/bin/sh\n[ \"$*\" = \"build --release -p walser\" ]\n").unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(&cargo, mode).unwrap();
        let copied = Command::new("cp").arg("-r").arg(root().join("examples")).arg(&directory).status().unwrap();
        assert!(copied.success());
        Self { directory, install: install.text.clone(), server: server.to_owned() }
    }

    /// Runs the commands of a block, each of which prints what the block says.
    fn follow(&self, block: &Block) {
        for session in block.text.split("$ ").filter(|session| !session.is_empty()) {
            let (command, expected) = session.split_once('\n').unwrap_or((session, ""));
            assert_eq!(settled(&self.shell(command)), settled(expected), "{command}");
        }
    }

    /// Runs lines in a shell of its own, and gives everything that they print.
    fn shell(&self, lines: &str) -> String {
        let stub = self.directory.join("stub");
        let path = format!("{}:{}", stub.display(), std::env::var("PATH").unwrap());
        let script = format!("set -eu\n{}\nexec 2>&1\n{lines}\n", self.install);
        let mut command = Command::new("bash");
        command.args(["-c", &script]).current_dir(&self.directory).env("PATH", path);
        let output = command.env("WALSER_SERVER", &self.server).output().unwrap();
        let printed = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success(), "{lines}\n{printed}{}", String::from_utf8_lossy(&output.stderr));
        printed
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_block_of_the_readme_does_what_it_says() {
    let blocks = blocks(&std::fs::read_to_string(root().join("README.md")).unwrap());
    let languages: Vec<&str> = blocks.iter().map(|block| block.language.as_str()).collect();
    // The last one is for Kubernetes: `make chart` checks what it installs.
    let known = ["sh", "sh", "console", "sh", "console", "sh", "text", "python", "sh", "sh"];
    assert_eq!(languages, known, "this test knows these blocks");
    let (dir, data) = place();
    assert_eq!(blocks[1].text, "walser up", "the server is started by that");
    let server = Server::start(&data);
    let clone = Clone::new(dir.path(), &blocks[0], &server.address);
    clone.follow(&blocks[2]);
    let printed = clone.shell(&blocks[5].text);
    assert_eq!(printed.lines().last(), Some(blocks[6].text.as_str()), "{printed}");
    // Where that was done, the member of a group is started as the text says.
    let member = "cd ../first-client && . .venv/bin/activate\npython member.py billing hello >printed &\n\
                  until grep -q works printed; do sleep 0.1; done\nkill %1\nwait %1\ncat printed";
    assert_eq!(clone.shell(member), "0 0 it works\n");
    with_tls(&data, clone, &blocks[8].text);
    server.assert_no_panic();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_of_the_cluster_in_the_readme_survives_its_leader() {
    let blocks = blocks(&std::fs::read_to_string(root().join("README.md")).unwrap());
    let place = tempfile::tempdir().unwrap();
    assert_eq!(blocks[3].text, "walser cluster up", "the cluster is started by that");
    // Where the program looks for one that nobody names.
    let cluster = Up::start(&place.path().join("clone/walser-cluster"));
    Clone::new(place.path(), &blocks[0], &cluster.server()).follow(&blocks[4]);
}

/// Follows the block that has a server with TLS.
fn with_tls(data: &Path, clone: Clone, block: &str) {
    let [makes, starts, writes] = block.lines().collect::<Vec<_>>()[..] else { panic!("{block}") };
    clone.shell(makes);
    let in_clone = format!("={}/", clone.directory.display());
    let starts = starts.strip_prefix("walser up ").unwrap().replace('=', &in_clone);
    let server = Server::start_with(&data.with_extension("tls"), &starts.split(' ').collect::<Vec<_>>());
    let printed = Clone { server: server.address.clone(), ..clone }.shell(writes);
    assert!(printed.ends_with("hello/0 @0\n"), "{printed}");
}
