//! Errors as people see them: what, why, what to do, and an exit code that scripts can use.

use std::process::ExitCode;

use tonic::Code;
use walser_client::{ApiError, ConnectError, Reason, TLS_TROUBLE};
use walser_model::suggest;
use walser_proto::v1::Effect;
use walser_service::ProcessError;

use crate::http1::{OtherPort, speaks_http1};
use crate::output;
use crate::signal::Interrupt;

/// What a batch and its only record take beside the value, with room for a key and headers.
const BATCH_OVERHEAD: i64 = 1024;

/// The exit code of what has failed for no reason that has one of its own.
pub(crate) const FAILED: u8 = 1;
/// The exit code of arguments or input that cannot be used.
pub(crate) const BAD_INPUT: u8 = 2;
/// The exit code when there is something of that name already.
pub(crate) const EXISTS: u8 = 4;
/// The exit code when there is nothing of that name.
pub(crate) const NOT_FOUND: u8 = 3;
/// The exit code when something cannot be done in the state that it is in.
pub(crate) const WRONG_STATE: u8 = 6;
/// The exit code when a server, or a part of the cluster, does not answer.
pub(crate) const UNAVAILABLE: u8 = 7;

/// What helps where groups have no coordinator.
pub(crate) const CHECK_COORDINATORS: &str = "`walser status` says whether a group coordinator runs; in a cluster on this \
     machine, `walser cluster status --dir DIR` shows each of them";

/// An error on its way to the terminal.
#[derive(Debug)]
pub(crate) struct CliError {
    what: String,
    why: Vec<String>,
    help: Option<String>,
    code: u8,
    /// What was asked for may have been done all the same.
    in_doubt: bool,
    /// An address at which no gRPC server was found.
    unreached: Option<String>,
}

impl From<serde_json::Error> for CliError {
    fn from(error: serde_json::Error) -> Self {
        Self::failed(error.to_string())
    }
}

impl From<ProcessError> for CliError {
    fn from(error: ProcessError) -> Self {
        match error {
            ProcessError::Settings(_) | ProcessError::Telemetry(_) => Self::usage(error.to_string()),
            error => Self::failed(error.to_string()),
        }
    }
}

impl CliError {
    /// Something failed.
    pub(crate) fn failed(what: impl Into<String>) -> Self {
        Self { what: what.into(), why: Vec::new(), help: None, code: FAILED, in_doubt: false, unreached: None }
    }

    /// The command line makes no sense.
    pub(crate) fn usage(what: impl Into<String>) -> Self {
        Self { code: 2, ..Self::failed(what) }
    }

    /// What is named is not there.
    pub(crate) fn not_found(what: impl Into<String>) -> Self {
        Self { code: NOT_FOUND, ..Self::failed(what) }
    }

    /// Whether what was asked for is not there.
    pub(crate) fn is_not_found(&self) -> bool {
        self.code == NOT_FOUND
    }

    /// Somebody has ended the command.
    pub(crate) fn interrupted(interrupt: Interrupt) -> Self {
        Self { code: interrupt.exit_code(), ..Self::failed("interrupted") }
    }

    /// Gives it another exit code.
    pub(crate) fn with_code(mut self, code: u8) -> Self {
        self.code = code;
        self
    }

    /// Adds what to do.
    #[must_use]
    pub(crate) fn with_help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// Adds a line on why.
    #[must_use]
    pub(crate) fn with_why(mut self, why: impl Into<String>) -> Self {
        self.why.push(why.into());
        self
    }

    /// The first line of it.
    pub(crate) fn what(&self) -> &str {
        &self.what
    }

    /// What to do, where that is known.
    pub(crate) fn help(&self) -> Option<&str> {
        self.help.as_deref()
    }

    /// Whether what was asked for may have been done all the same.
    pub(crate) fn is_in_doubt(&self) -> bool {
        self.in_doubt
    }

    /// Prints it, and gives the exit code.
    pub(crate) fn report(self) -> ExitCode {
        self.show();
        ExitCode::from(self.code)
    }

    /// Prints it.
    pub(crate) fn show(&self) {
        output::error(&self.what);
        for line in &self.why {
            output::note(&format!("  {line}"));
        }
        if let Some(help) = &self.help {
            output::help(help);
        }
    }

    /// Looks at the address that no gRPC server answers at: it may be another port that somebody has taken for it.
    pub(crate) async fn looked_into(mut self) -> Self {
        let Some(address) = self.unreached.take() else { return self };
        let help = match speaks_http1(&address).await {
            None => return self,
            Some(OtherPort::Tls) => {
                let words = walser_tls::SPOKEN_TO_WITHOUT;
                let error = Self { code: self.code, ..Self::failed(format!("TLS with {address}: {words}")) };
                return error.with_help(tls_help(words));
            }
            Some(OtherPort::Admin(grpc)) => {
                format!("this is the admin port; its gRPC port is {grpc}: --server {grpc}")
            }
            Some(OtherPort::Web) => {
                "it may be an admin port or a web server; name the gRPC port with --server HOST:PORT".to_owned()
            }
        };
        Self { code: self.code, ..Self::failed(format!("{address} speaks HTTP/1.1, not gRPC")) }.with_help(help)
    }

    /// What the gRPC library says when no server has answered.
    fn unanswered(failure: &ApiError, server: &str) -> Self {
        let signs = ["transport error", "error trying", "connect error", "dns error"];
        if let Some(words) = failure.message().strip_prefix(TLS_TROUBLE) {
            let error = Self { code: UNAVAILABLE, ..Self::failed(format!("TLS with {server}: {words}")) };
            return error.with_help(tls_help(words));
        }
        // An admin port speaks HTTP, and knows no service.
        let no_server = failure.message().starts_with("grpc-status header missing")
            || signs.iter().any(|sign| failure.message().contains(sign));
        if no_server {
            let unknown = failure.message().contains("dns error");
            let what = if unknown { ": its name does not resolve" } else { "" };
            let error = Self { code: UNAVAILABLE, ..Self::failed(format!("no server answers at {server}{what}")) };
            let error = error.with_help(
                "name one that runs with --server HOST:PORT, or start one: `walser up`, or of a cluster on this machine \
                 `walser cluster up --dir DIR` (all of it) or `walser cluster start gateway --dir DIR`",
            );
            return Self { unreached: Some(server.to_owned()), ..error };
        }
        if failure.message().contains("unknown service") {
            let error = Self::failed(format!("{server} is a gRPC server, and no gateway of Walser"));
            return error.with_help("name the gRPC port of a gateway with --server HOST:PORT");
        }
        // A port that takes another for it may have closed the connection before the call was on it.
        let unreached = failure.message().contains("operation was canceled").then(|| server.to_owned());
        let what = format!("the connection to {server} broke: {}", failure.message());
        Self { code: UNAVAILABLE, unreached, ..Self::failed(what) }
            .with_help("the server has stopped, hangs, or is cut off: look at its process and its log, or name another one with --server HOST:PORT")
    }

    /// What a server answered to a command about a topic.
    pub(crate) fn server(failure: ApiError, server: &str) -> Self {
        let (code, in_doubt) = (exit_code(failure.code()), failure.effect() != Effect::None);
        if !failure.answered() {
            return Self { in_doubt, ..Self::unanswered(&failure, server) };
        }
        let mut error =
            Self { code, in_doubt, ..Self::failed(format!("{} ({})", failure.message(), failure.reason_name())) };
        if failure.reason() == Reason::TopicExists
            && let Some(partitions) = failure.value("partitions")
        {
            let replicas = failure.value("replicas").unwrap_or("0");
            let number = |text: &str| text.parse().unwrap_or(0);
            let (partitions, replicas) = (number(partitions), number(replicas));
            let (partitions, replicas) = (output::plural(partitions, "partition"), output::plural(replicas, "replica"));
            error.why.push(format!("It has {partitions} and {replicas}."));
        }
        error.help = help(&failure);
        error
    }
}

/// What has failed, without the words of the gRPC library.
pub(crate) fn in_words(failure: &ApiError, server: &str) -> String {
    if failure.answered() {
        return failure.message().to_owned();
    }
    let error = CliError::unanswered(failure, server);
    let broke = format!("the connection to {server} broke");
    if error.unreached.is_some() && !error.what.starts_with(&broke) { error.what } else { broke }
}

/// A question to stand behind "there is no NAME", when one of the names that there are is like it.
pub(crate) fn did_you_mean<'a>(name: &str, names: impl IntoIterator<Item = &'a str>) -> String {
    suggest(name, names).map_or_else(String::new, |meant| format!("; did you mean \"{meant}\"?"))
}

/// What to do about trouble with TLS.
pub(crate) fn tls_help(words: &str) -> &'static str {
    let known = [
        (
            "was spoken to without",
            "name the authority of the server with --tls-ca FILE, or say --tls for those of the system",
        ),
        ("does not speak TLS", "leave the --tls flags and WALSER_TLS variables away, or name the port that has TLS"),
        ("authority that is not believed", "name the authority that has signed its certificate with --tls-ca FILE"),
        ("for other names", "name the server as its certificate does, or say --tls-server-name NAME"),
        ("and none was shown", "show one that the server's authority has signed with --tls-cert FILE --tls-key FILE"),
        ("does not believe our", "show one that the server's authority has signed with --tls-cert FILE --tls-key FILE"),
        ("took too long", "the process there hangs or is stopped: look at it and at its log"),
        ("expired", "it has to be renewed in its file; servers and clients take the new one without a restart"),
    ];
    let found = known.into_iter().find(|(sign, _)| words.contains(sign));
    found.map_or("look at the certificates of both sides, and at the server's log", |(_, help)| help)
}

fn help(failure: &ApiError) -> Option<String> {
    let topic = failure.value("topic").unwrap_or("TOPIC");
    Some(match failure.reason() {
        Reason::TopicExists if failure.value("topicId").is_some() => {
            "choose another name with --topic; `walser topic list` shows the topics there are.".to_owned()
        }
        Reason::TopicExists
            if failure.value("difference").is_some_and(|difference| difference.starts_with("it has ")) =>
        {
            format!("`walser topic add-partitions {topic}` adds some; there is no way to take any away.")
        }
        Reason::TopicExists if failure.value("difference").is_some_and(|difference| !difference.is_empty()) => {
            format!("`walser topic alter {topic}` changes its settings, `walser topic describe {topic}` shows them.")
        }
        Reason::TopicExists => {
            format!("use --if-not-exists to accept it, or `walser topic describe {topic}`.")
        }
        Reason::TopicNotFound if failure.value("topicId").is_some() => {
            "`walser partition set-aside list` shows what is held aside.".to_owned()
        }
        Reason::TopicNotFound => {
            format!("`walser topic list` shows the topics there are, `walser topic create {topic}` makes this one.")
        }
        Reason::RecordTooLarge => {
            return failure.value("maxBytes").and_then(|max| max.parse().ok()).map(|max| too_large(topic, max));
        }
        Reason::PartitionNotFound => format!("`walser topic describe {topic}` shows its partitions."),
        Reason::OffsetOutOfRange => {
            format!("`walser topic describe {topic}` shows which offsets there are.")
        }
        Reason::ConfigInvalid => "`walser topic config` shows every setting with its values.".to_owned(),
        Reason::CoordinatorNotAvailable => CHECK_COORDINATORS.to_owned(),
        Reason::DiskFull => "free space on the server, or lower the retention of large topics.".to_owned(),
        Reason::LogCorrupt => "`walser status` says what helps.".to_owned(),
        Reason::MetadataRollback => {
            "put the newer metadata back, or accept what is there with `walser metadata accept-restore`.".to_owned()
        }
        _ => return None,
    })
}

/// How a record that is larger than a batch may be gets in all the same.
fn too_large(topic: &str, max: i64) -> String {
    // What a batch and a record take beside the value, rounded down to a size that is easy to write.
    let block = ((max - BATCH_OVERHEAD) / 1024).max(1);
    let block = if max > BATCH_OVERHEAD + 1024 { format!("{block}KiB") } else { (max / 2).max(1).to_string() };
    format!(
        "raise max.message.bytes (`walser topic alter {topic} --config max.message.bytes=…`), or cut the input with \
         --as blocks:{block}"
    )
}

fn exit_code(code: Code) -> u8 {
    match code {
        Code::InvalidArgument => BAD_INPUT,
        Code::NotFound => NOT_FOUND,
        Code::AlreadyExists => EXISTS,
        Code::PermissionDenied | Code::Unauthenticated => 5,
        Code::FailedPrecondition | Code::Aborted | Code::OutOfRange => WRONG_STATE,
        Code::Unavailable | Code::DeadlineExceeded => UNAVAILABLE,
        _ => 1,
    }
}

impl From<ConnectError> for CliError {
    fn from(error: ConnectError) -> Self {
        Self::usage(error.to_string()).with_help("write it as HOST:PORT, such as 127.0.0.1:7460")
    }
}

impl From<String> for CliError {
    fn from(what: String) -> Self {
        Self::failed(what)
    }
}

impl From<std::io::Error> for CliError {
    fn from(error: std::io::Error) -> Self {
        Self::failed(error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use tonic::Status;

    use super::*;

    #[test]
    fn what_keeps_a_server_away_is_said_in_words() {
        let text = |status: Status| in_words(&status.into(), "127.0.0.1:1");
        assert_eq!(text(Status::unavailable("transport error")), "no server answers at 127.0.0.1:1");
        assert_eq!(text(Status::unknown("h2 protocol error: stream closed")), "the connection to 127.0.0.1:1 broke");
        let said = ApiError::new(Reason::CoordinatorNotAvailable, "the group has no coordinator yet");
        assert_eq!(in_words(&said, "127.0.0.1:1"), said.message());
    }
}
