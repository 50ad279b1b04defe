//! `walser tls`: certificates for those who have no authority of their own.

mod dev;
mod kubernetes;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand};
use walser_model::{Clock as _, SystemClock};
use walser_tls::{Authority, Issued, Purpose};

use crate::error::CliError;
use crate::output;

pub(crate) use dev::{DevelopmentFiles, make as make_development};

#[derive(Debug, Subcommand)]
pub(crate) enum TlsCommand {
    /// Make an authority and certificates for development
    Dev(TlsDevArgs),
    /// Make the certificates of a cluster as Secrets, from inside a pod
    Kubernetes(TlsKubernetesArgs),
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  walser tls dev ./tls
  walser tls dev ./tls --host broker.example --host 10.0.0.7

  walser up --set tls.cert.file=tls/server.crt --set tls.key.file=tls/server.key
  walser produce hello \"it works\" --tls-ca tls/ca.crt

What is in DIR already is kept while it is valid: run it again when a file is
missing or has expired. Keys are readable by their owner only.")]
pub(crate) struct TlsDevArgs {
    /// Directory for the files; made when missing
    pub(crate) dir: PathBuf,
    /// A name or IP address by which clients reach the server, besides localhost (repeatable)
    #[arg(long = "host", value_name = "NAME")]
    pub(crate) hosts: Vec<String>,
    /// The cluster that certificates of processes are for
    #[arg(long, value_name = "NAME", default_value = "walser", value_parser = cluster_name)]
    pub(crate) cluster: String,
    /// Days for which they are valid
    #[arg(long, value_name = "N", default_value_t = 365, value_parser = clap::value_parser!(u32).range(1..=3650))]
    pub(crate) days: u32,
}

#[derive(Debug, Args)]
#[command(override_usage = "walser tls kubernetes --cluster NAME --secrets PREFIX --host NAME")]
#[command(after_help = "\
Example:
  walser tls kubernetes --cluster prod --secrets walser --host walser.data.svc

The chart runs it before an install and an upgrade. It asks the API server as
the service account of its pod, which needs get, create and update on Secrets.
Certificates are made anew when less than a third of their days is left, or
when their names are others; authorities are kept for 20 years.")]
pub(crate) struct TlsKubernetesArgs {
    /// The cluster that certificates of processes are for
    #[arg(long, value_name = "NAME", value_parser = cluster_name)]
    pub(crate) cluster: String,
    /// What the names of the Secrets begin with
    #[arg(long, value_name = "PREFIX")]
    pub(crate) secrets: String,
    /// A name or IP address by which clients reach the cluster (repeatable)
    #[arg(long = "host", value_name = "NAME", required = true)]
    pub(crate) hosts: Vec<String>,
    /// A name of a member of etcd; with at least one there are certificates for etcd, too (repeatable)
    #[arg(long = "etcd-host", value_name = "NAME")]
    pub(crate) etcd_hosts: Vec<String>,
    /// Days for which certificates are valid
    #[arg(long, value_name = "N", default_value_t = 365, value_parser = clap::value_parser!(u32).range(1..=3650))]
    pub(crate) days: u32,
    /// A label of the Secrets (repeatable)
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = label)]
    pub(crate) labels: Vec<(String, String)>,
}

/// Runs the command.
pub(crate) fn run(command: TlsCommand) -> Result<ExitCode, CliError> {
    match command {
        TlsCommand::Dev(arguments) => run_dev(&arguments),
        TlsCommand::Kubernetes(arguments) => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(kubernetes::run(&arguments)).map(|()| ExitCode::SUCCESS)
        }
    }
}

/// A name that a cluster can have in certificates.
fn cluster_name(name: &str) -> Result<String, String> {
    let letters = name.chars().all(|letter| letter.is_ascii_alphanumeric() || "._-".contains(letter));
    if !name.is_empty() && letters {
        Ok(name.to_owned())
    } else {
        Err("it has letters, digits, dots, hyphens and underscores".to_owned())
    }
}

fn label(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("it is written as KEY=VALUE")?;
    Ok((key.to_owned(), value.to_owned()))
}

fn run_dev(arguments: &TlsDevArgs) -> Result<ExitCode, CliError> {
    let valid = days(arguments.days);
    let made = dev::make(&arguments.dir, &arguments.cluster, &arguments.hosts, valid)?;
    for file in &made {
        output::data(&file.display().to_string());
    }
    let dir = arguments.dir.display();
    if made.is_empty() {
        output::note(&format!("{dir} has all of them already: nothing was changed"));
    }
    if !arguments.hosts.is_empty() && !made.iter().any(|file| file.ends_with("server.crt")) {
        output::warning(&format!(
            "{dir}/server.crt is kept, and may be for other names; remove it and {dir}/server.key to have one for these"
        ));
    }
    output::note(&format!("clients believe these servers with --tls-ca {dir}/ca.crt"));
    Ok(ExitCode::SUCCESS)
}

fn days(days: u32) -> Duration {
    Duration::from_secs(u64::from(days) * 86_400)
}

/// Seconds since the epoch.
fn now() -> u64 {
    u64::try_from(SystemClock::start().now_millis() / 1000).unwrap_or(0)
}

/// A certificate of this authority. `now`: seconds since the epoch.
fn issue(authority: &Authority, purpose: &Purpose, now: u64, valid: Duration) -> Result<Issued, CliError> {
    authority.issue(purpose, now, valid).map_err(|error| CliError::usage(error.to_string()))
}
