//! The processes whose admin ports are asked.

use std::path::{Path, PathBuf};

use clap::Args;

use crate::command::cluster::{ClusterFile, ClusterProcess, ClusterProcessState, cluster_file};
use crate::error::CliError;

/// The admin port of a process that was not told another.
const ADMIN_DEFAULT: &str = "127.0.0.1:7463";

/// Which processes.
#[derive(Debug, Clone, Args)]
pub(super) struct AdminArgs {
    /// Admin port of a process (repeatable) [default: those of --dir, else 127.0.0.1:7463]
    #[arg(short = 'a', long, value_name = "HOST:PORT")]
    pub(super) admin: Vec<String>,
    /// All processes of a cluster that `walser cluster up` runs on this machine
    #[arg(short = 'd', long, value_name = "DIR")]
    pub(super) dir: Option<PathBuf>,
}

/// A process that is asked.
#[derive(Debug, Clone)]
pub(super) struct Asked {
    /// Of a cluster on this machine its role and number, else where its admin port is.
    pub(super) name: String,
    /// `None`: it cannot be asked.
    pub(super) admin: Option<String>,
    /// Why it cannot be asked, where it cannot.
    pub(super) why_not: String,
    /// The file that its log goes to, where that is known.
    pub(super) log: Option<PathBuf>,
}

// === impl AdminArgs ===

impl AdminArgs {
    /// Whether nothing names a process.
    pub(super) fn is_default(&self) -> bool {
        self.admin.is_empty() && self.dir.is_none()
    }

    /// What `--dir` says.
    ///
    /// # Errors
    /// When it is no directory of a cluster.
    pub(super) fn cluster(&self) -> Result<Option<ClusterFile>, CliError> {
        self.dir.as_deref().map(cluster_file).transpose()
    }

    /// The processes, each once.
    ///
    /// # Errors
    /// As for [`Self::cluster`], and when an address is none.
    pub(super) fn processes(&self) -> Result<Vec<Asked>, CliError> {
        let of_dir = self.cluster()?.unwrap_or_default().processes.into_iter().map(Asked::of);
        let mut all: Vec<_> = of_dir.collect();
        let default = self.is_default().then(|| ADMIN_DEFAULT.to_owned());
        for admin in self.admin.iter().cloned().chain(default) {
            check(&admin)?;
            if !all.iter().any(|known| known.admin.as_ref() == Some(&admin)) {
                let name = admin.replace([':', '[', ']'], "-");
                all.push(Asked { name, admin: Some(admin), why_not: String::new(), log: None });
            }
        }
        Ok(all)
    }
}

/// Checks what is to be an address.
fn check(admin: &str) -> Result<(), CliError> {
    let port = admin.rsplit_once(':').filter(|(host, _)| !host.is_empty() && !host.contains('/'));
    if port.is_some_and(|(_, port)| port.parse::<u16>().is_ok()) {
        return Ok(());
    }
    let error = CliError::usage(format!("\"{admin}\" is not HOST:PORT"));
    Err(error.with_help("name an admin port, such as 127.0.0.1:7463"))
}

// === impl Asked ===

impl Asked {
    fn of(process: ClusterProcess) -> Self {
        let runs = process.state == ClusterProcessState::Running;
        let admin = process.admin().filter(|_| runs).map(|admin| admin.to_string());
        let why_not = if runs { "it has no admin port".to_owned() } else { format!("it is {}", process.state) };
        Self { name: process.name().replace(' ', "-"), admin, why_not, log: Some(process.log) }
    }

    /// Where the log is, as far as it is known to be a file.
    pub(super) fn log(&self) -> Option<&Path> {
        self.log.as_deref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processes_are_named_once_by_what_is_given() {
        let of = |admin: &[&str]| {
            let admin = admin.iter().map(|address| (*address).to_owned()).collect();
            AdminArgs { admin, dir: None }.processes()
        };
        let names = |asked: Vec<Asked>| asked.into_iter().map(|asked| asked.name).collect::<Vec<_>>();
        assert_eq!(names(of(&[]).unwrap()), ["127.0.0.1-7463"]);
        assert_eq!(names(of(&["a:1", "a:1", "[::1]:2"]).unwrap()), ["a-1", "---1--2"]);
        for bad in ["a", "a:", ":1", "http://a:1", "a:70000"] {
            assert!(of(&[bad]).is_err(), "{bad}");
        }
        let missing = AdminArgs { admin: Vec::new(), dir: Some("/nowhere".into()) };
        assert!(missing.processes().unwrap_err().what().contains("/nowhere/cluster.json"));
    }
}
