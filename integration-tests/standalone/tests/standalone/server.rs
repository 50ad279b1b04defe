//! A server process of a test.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use walser_client::{ApiError, Client, Reason};
use walser_proto::v1 as pb;

/// Longest wait for a condition: far above what it takes, far below a hanging run.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// The program under test.
pub(crate) fn binary() -> PathBuf {
    program("walser")
}

/// A program of the workspace, beside `WALSER_BINARY` or beside this test.
pub(crate) fn program(name: &str) -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let beside = std::env::var_os("WALSER_BINARY").map(PathBuf::from);
    let directory = beside.as_deref().and_then(Path::parent).or_else(|| test.parent().unwrap().parent());
    let path = directory.unwrap().join(name);
    assert!(path.exists(), "build the programs first: cargo build --workspace --bins");
    path
}

/// A program that has said that it is ready.
pub(crate) struct Ready {
    pub(crate) child: Child,
    pub(crate) grpc: String,
    pub(crate) admin: String,
}

/// Starts a program with a ready file, and waits for it. What was printed, when it ends instead.
pub(crate) fn start(mut command: Command, ready: &Path, log: &Path) -> Result<Ready, String> {
    let _ = std::fs::remove_file(ready);
    let stderr = std::fs::OpenOptions::new().create(true).append(true).open(log).unwrap();
    command.args(["--admin", "127.0.0.1:0", "--ready-file"]).arg(ready);
    command.env("RUST_BACKTRACE", "1").stdout(Stdio::null()).stderr(stderr).stdin(Stdio::null());
    let mut child = command.spawn().unwrap();
    let deadline = now() + PATIENCE;
    loop {
        if let Ok(text) = std::fs::read_to_string(ready) {
            let ready: serde_json::Value = serde_json::from_str(&text).unwrap();
            let field = |name: &str| ready[name].as_str().unwrap().to_owned();
            assert_eq!(ready["pid"], child.id());
            return Ok(Ready { child, grpc: field("grpc"), admin: field("admin") });
        }
        if child.try_wait().unwrap().is_some() {
            return Err(std::fs::read_to_string(log).unwrap());
        }
        assert!(now() < deadline, "{} is not ready", command.get_program().display());
        wait_a_little();
    }
}

pub(crate) struct Server {
    child: Child,
    pub(crate) address: String,
    pub(crate) admin: String,
    log: PathBuf,
    data: PathBuf,
}

impl Server {
    /// Starts on a data directory, and waits until it is ready.
    pub(crate) fn start(data: &Path) -> Self {
        Self::start_with(data, &[])
    }

    pub(crate) fn start_with(data: &Path, more: &[&str]) -> Self {
        Self::try_start(data, more).unwrap_or_else(|output| panic!("the server did not start: {output}"))
    }

    /// Starts; gives back what was printed when the process ends instead of becoming ready.
    pub(crate) fn try_start(data: &Path, more: &[&str]) -> Result<Self, String> {
        let (ready, log) = (data.with_extension("ready"), data.with_extension("log"));
        let mut command = Command::new(binary());
        command.arg("up");
        if !more.contains(&"--listen") {
            command.args(["--listen", "127.0.0.1:0"]);
        }
        if !more.contains(&"--memory") {
            command.arg("--data").arg(data);
        }
        command.args(more);
        let Ready { child, grpc, admin } = start(command, &ready, &log)?;
        Ok(Self { child, address: grpc, admin, log, data: data.to_owned() })
    }

    pub(crate) fn client(&self) -> Client {
        Client::new(&self.address).unwrap()
    }

    pub(crate) fn data(&self) -> &Path {
        &self.data
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// SIGKILL.
    pub(crate) fn kill(mut self) -> PathBuf {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.data.clone()
    }

    /// SIGTERM; gives back everything that the server printed.
    pub(crate) fn stop(mut self) -> String {
        self.signal("TERM");
        let status = self.child.wait().unwrap();
        assert!(status.success(), "{status}: {}", self.printed());
        self.printed()
    }

    /// Waits for the end of a server that was told to stop.
    pub(crate) fn ended(mut self) -> PathBuf {
        let status = self.child.wait().unwrap();
        assert!(status.success(), "{status}: {}", self.printed());
        self.data.clone()
    }

    pub(crate) fn signal(&self, name: &str) {
        let sent = Command::new("kill").args([&format!("-{name}"), &self.pid().to_string()]).status().unwrap();
        assert!(sent.success());
    }

    pub(crate) fn printed(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }

    /// The lines of the log with this message, in the order in which they came.
    pub(crate) fn logged(&self, message: &str) -> Vec<serde_json::Value> {
        let printed = self.printed();
        let lines = printed.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
        lines.map(|mut line| line["fields"].take()).filter(|fields| fields["message"] == message).collect()
    }

    /// What the last start found on the disk.
    pub(crate) fn recovered(&self) -> serde_json::Value {
        self.logged("logs recovered").pop().unwrap_or_else(|| panic!("nothing was recovered: {}", self.printed()))
    }

    /// The most memory that the server has ever had, in bytes.
    pub(crate) fn peak_memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
    }

    /// Nothing that should never be printed was.
    pub(crate) fn assert_no_panic(&self) {
        let printed = self.printed();
        assert!(!printed.contains("panicked"), "{printed}");
    }

    /// Runs the command line against this server.
    pub(crate) fn cli(&self, arguments: &[&str]) -> Output {
        self.cli_with_input(arguments, &[])
    }

    pub(crate) fn cli_with_input(&self, arguments: &[&str], input: &[u8]) -> Output {
        cli_at(&self.address, arguments, input)
    }

    /// Runs the command line, which must succeed; gives back its standard output.
    pub(crate) fn cli_ok(&self, arguments: &[&str]) -> Vec<u8> {
        let output = self.cli(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs the command line against the server at an address.
pub(crate) fn cli_at(address: &str, arguments: &[&str], input: &[u8]) -> Output {
    use std::io::Write as _;
    let mut command = Command::new(binary());
    command.args(arguments).env("WALSER_SERVER", address);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    let feeding = std::thread::spawn(move || drop(stdin.write_all(&input)));
    let output = child.wait_with_output().unwrap();
    feeding.join().unwrap();
    output
}

#[expect(clippy::disallowed_methods, reason = "a deadline for another process")]
fn now() -> Instant {
    Instant::now()
}

/// Between two looks at a condition.
#[expect(clippy::disallowed_methods, reason = "polling another process, with a deadline")]
pub(crate) fn wait_a_little() {
    std::thread::sleep(Duration::from_millis(5));
}

/// A data directory of a test, with room for the files beside it.
pub(crate) fn place() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    (dir, data)
}

/// Creates a topic.
pub(crate) async fn create(client: &Client, name: &str, partition_count: i32, config: &[(&str, &str)]) {
    let config = config.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    let topic = pb::Topic { name: name.to_owned(), partition_count, config, ..Default::default() };
    let request = pb::CreateTopicRequest { topic: Some(topic), ..Default::default() };
    client.topics().create_topic(request).await.unwrap();
}

/// A record with a value.
pub(crate) fn record(value: impl Into<Vec<u8>>) -> pb::Record {
    pb::Record { value: Some(value.into().into()), ..Default::default() }
}

/// Every record of a partition from its start on, as of now.
pub(crate) async fn read_all(client: &Client, topic: &str, partition: i32) -> Vec<pb::ConsumedRecord> {
    let target = pb::ReadTarget {
        topic: topic.to_owned(),
        partition: Some(partition),
        start: Some(bound(pb::Bound::Earliest)),
        end: Some(bound(pb::Bound::Latest)),
        ..Default::default()
    };
    let request = pb::ReadRequest { targets: vec![target], ..Default::default() };
    let mut stream = client.consumer().read(request).await.unwrap().into_inner();
    let (mut records, mut problems) = (Vec::new(), Vec::new());
    let mut read = async || {
        while let Some(message) = stream.message().await.unwrap() {
            match message.event {
                Some(pb::read_response::Event::Chunk(chunk)) => records.extend(chunk.records),
                Some(pb::read_response::Event::PartitionError(problem)) => problems.push(problem),
                _ => {}
            }
        }
    };
    let in_time = tokio::time::timeout(PATIENCE, read()).await;
    assert!(
        in_time.is_ok(),
        "the read of {topic} [{partition}] does not end, after {} records: {problems:?}",
        records.len()
    );
    records
}

/// Writes a record. Returns its offset. What was refused for want of replicas, and not written, is tried again: a busy machine
/// has nodes miss their beats.
pub(crate) async fn write(client: &Client, topic: &str, partition: i32, value: impl Into<Vec<u8>>) -> i64 {
    let request = pb::ProduceRequest {
        topic: topic.to_owned(),
        partition: Some(partition),
        records: vec![record(value)],
        ..Default::default()
    };
    let begun = now();
    loop {
        match client.producer().produce(request.clone()).await {
            Ok(written) => return written.into_inner().positions[0].offset,
            Err(status) => {
                let failure = ApiError::from(status);
                let again = failure.reason() == Reason::NotEnoughReplicas && failure.effect() == pb::Effect::None;
                assert!(again && begun.elapsed() < PATIENCE, "{topic}-{partition}: {failure}");
                wait_a_little();
            }
        }
    }
}

/// The values of a partition, all of which are text.
pub(crate) async fn values(client: &Client, topic: &str, partition: i32) -> Vec<String> {
    let records = read_all(client, topic, partition).await.into_iter();
    records.map(|record| String::from_utf8(record.value.unwrap().to_vec()).unwrap()).collect()
}

pub(crate) fn bound(bound: pb::Bound) -> pb::Position {
    pb::Position { at: Some(pb::position::At::Bound(bound.into())) }
}
