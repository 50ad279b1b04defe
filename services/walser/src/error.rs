//! Errors as people see them: what, why, what to do, and an exit code that scripts can use.

use std::process::ExitCode;

use tonic::Code;
use walser_client::{ConnectError, Failure, Reason};
use walser_service::ProcessError;

use crate::output;

/// The exit code when a server, or a part of the cluster, does not answer.
pub(crate) const UNAVAILABLE: u8 = 7;

/// An error on its way to the terminal.
#[derive(Debug)]
pub(crate) struct CliError {
    what: String,
    why: Vec<String>,
    help: Option<String>,
    code: u8,
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
        Self { what: what.into(), why: Vec::new(), help: None, code: 1 }
    }

    /// The command line makes no sense.
    pub(crate) fn usage(what: impl Into<String>) -> Self {
        Self { code: 2, ..Self::failed(what) }
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

    /// Prints it, and gives the exit code.
    pub(crate) fn report(self) -> ExitCode {
        output::note(&format!("error: {}", self.what));
        for line in &self.why {
            output::note(&format!("  {line}"));
        }
        if let Some(help) = &self.help {
            output::note(&format!("  help: {help}"));
        }
        ExitCode::from(self.code)
    }

    /// What a server answered to a command about a topic.
    pub(crate) fn server(failure: Failure, server: &str) -> Self {
        let code = exit_code(failure.code());
        let unreached = failure.code() == Code::Unavailable && failure.value("topic").is_none();
        let signs = ["transport error", "error trying", "connect error", "dns error"];
        let connection = signs.iter().any(|sign| failure.message().contains(sign));
        if unreached && connection && failure.reason() != Reason::ControllerNotAvailable {
            let error = Self { code, ..Self::failed(format!("no server answers at {server}")) };
            return error.with_help("start one with `walser up`, or name another with --server HOST:PORT");
        }
        let mut error = Self { code, ..Self::failed(format!("{} ({})", failure.message(), failure.reason_name())) };
        if failure.reason() == Reason::TopicExists
            && let Some(partitions) = failure.value("partitions")
        {
            let replicas = failure.value("replicas").unwrap_or("?");
            error.why.push(format!("It has {partitions} partitions and {replicas} replicas."));
        }
        error.help = help(&failure);
        error
    }
}

fn help(failure: &Failure) -> Option<String> {
    let topic = failure.value("topic").unwrap_or("TOPIC");
    Some(match failure.reason() {
        Reason::TopicExists if failure.value("topicId").is_some() => {
            "choose another name with --topic; `walser topic list` shows the topics there are.".to_owned()
        }
        Reason::TopicExists => {
            format!("use --if-not-exists to accept it, or `walser topic describe {topic}`.")
        }
        Reason::TopicNotFound if failure.value("topicId").is_some() => {
            "`walser partition set-aside list` shows what is held aside.".to_owned()
        }
        Reason::TopicNotFound => "`walser topic list` shows the topics there are.".to_owned(),
        Reason::PartitionNotFound => format!("`walser topic describe {topic}` shows its partitions."),
        Reason::OffsetOutOfRange => {
            format!("`walser topic describe {topic}` shows which offsets there are.")
        }
        Reason::ConfigInvalid => "`walser topic config` shows every setting with its values.".to_owned(),
        Reason::DiskFull => "free space on the server, or lower the retention of large topics.".to_owned(),
        Reason::LogCorrupt => {
            "`walser partition repair TOPIC PARTITION --accept-loss` gives up what is damaged.".to_owned()
        }
        Reason::MetadataRollback => {
            "put the newer metadata back, or accept what is there with `walser metadata accept-restore`.".to_owned()
        }
        _ => return None,
    })
}

fn exit_code(code: Code) -> u8 {
    match code {
        Code::InvalidArgument => 2,
        Code::NotFound => 3,
        Code::AlreadyExists => 4,
        Code::PermissionDenied | Code::Unauthenticated => 5,
        Code::FailedPrecondition | Code::Aborted | Code::OutOfRange => 6,
        Code::Unavailable | Code::DeadlineExceeded => UNAVAILABLE,
        _ => 1,
    }
}

impl From<ConnectError> for CliError {
    fn from(error: ConnectError) -> Self {
        Self::usage(error.to_string()).with_help("write it as HOST:PORT, such as 127.0.0.1:7460")
    }
}

impl From<std::io::Error> for CliError {
    fn from(error: std::io::Error) -> Self {
        Self::failed(error.to_string())
    }
}
