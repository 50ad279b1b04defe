//! Where a cluster of this machine keeps its metadata: with its only controller, or in members of etcd that are started
//! with it. That is decided when the cluster is formed, and remembered in its directory.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use walser_service::process::replace_file;

use super::layout::ClusterDirectory;
use crate::cli::{ClusterMetastoreKind, ClusterUpArgs};
use crate::error::CliError;

/// How a program is built that can use etcd.
const BUILD: &str = "cargo build --release --features etcd builds one with it, which needs protoc";
/// How to come by an etcd.
const GET: &str =
    "get etcd 3.6.14 or later (https://etcd.io/docs/latest/install), and put it in the PATH or name it with --etcd";

/// Where the metadata is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum ClusterMetastore {
    /// In a file of the only controller.
    Embedded,
    Etcd {
        program: PathBuf,
        members: u32,
    },
}

impl ClusterMetastore {
    /// What the cluster in a directory has, or what a new one is to have.
    ///
    /// # Errors
    /// When the arguments want another one, or it is not to be had.
    pub(crate) fn decide(directory: &ClusterDirectory, arguments: &ClusterUpArgs) -> Result<Self, CliError> {
        let file = directory.metastore_file();
        let remembered: Option<Self> = match std::fs::read(&file) {
            Ok(text) => Some(serde_json::from_slice(&text).map_err(|error| unreadable(&file, &error))?),
            // It was formed by a version that had no other.
            Err(error) if error.kind() == io::ErrorKind::NotFound => directory.has_embedded().then_some(Self::Embedded),
            Err(error) => return Err(unreadable(&file, &error)),
        };
        let found = match remembered {
            Some(known) => known.remembered_as(arguments)?,
            None => Self::new(arguments)?,
        };
        if found == Self::Embedded && directory.controllers(arguments)? > 1 {
            let error = CliError::usage("--controllers: only one controller can have an embedded metadata store");
            return Err(error.with_help("several share one in etcd: --metastore etcd"));
        }
        replace_file(&file, serde_json::to_vec_pretty(&found)?)?;
        Ok(found)
    }

    /// Members of etcd.
    pub(crate) fn members(&self) -> u32 {
        match self {
            Self::Embedded => 0,
            Self::Etcd { members, .. } => *members,
        }
    }

    fn new(arguments: &ClusterUpArgs) -> Result<Self, CliError> {
        let of_etcd = names_etcd(arguments);
        let wanted = arguments.metastore == Some(ClusterMetastoreKind::Etcd) || of_etcd;
        if arguments.metastore == Some(ClusterMetastoreKind::Embedded) {
            let error = CliError::usage("--etcd and --etcd-members need --metastore etcd, not embedded");
            let error = error.with_help("leave them out, or leave out --metastore embedded");
            return if of_etcd { Err(error) } else { Ok(Self::Embedded) };
        }
        if !cfg!(feature = "etcd") {
            let error = CliError::failed("--metastore etcd: this program is built without etcd");
            return if wanted { Err(error.with_help(BUILD)) } else { Ok(Self::Embedded) };
        }
        let named = arguments.etcd.clone().unwrap_or_else(|| PathBuf::from("etcd"));
        match usable(&named) {
            Ok(program) => Ok(Self::Etcd { program, members: arguments.etcd_members.unwrap_or(1) }),
            Err(why) if wanted => Err(CliError::failed(format!("--metastore etcd: {why}")).with_help(GET)),
            Err(_) => Ok(Self::Embedded),
        }
    }

    /// The same, with another program where one is named; an error where the arguments do not fit.
    fn remembered_as(self, arguments: &ClusterUpArgs) -> Result<Self, CliError> {
        let formed = |what: &str| {
            let error = CliError::failed(format!("the cluster in this directory was formed with {what}"));
            error.with_help(
                "leave the option out, or choose another --dir; `walser metadata export` is for services that are \
                             started by hand",
            )
        };
        match (self, arguments.metastore) {
            (Self::Embedded, Some(ClusterMetastoreKind::Etcd)) => Err(formed("--metastore embedded")),
            (Self::Embedded, _) if names_etcd(arguments) => Err(formed("--metastore embedded")),
            (Self::Etcd { .. }, Some(ClusterMetastoreKind::Embedded)) => Err(formed("--metastore etcd")),
            (Self::Etcd { members, .. }, _) if arguments.etcd_members.is_some_and(|wanted| wanted != members) => {
                Err(formed(&format!("--etcd-members {members}")))
            }
            (Self::Etcd { .. }, _) if !cfg!(feature = "etcd") => {
                Err(CliError::failed("the metadata of this cluster is in etcd, and this program is built without it")
                    .with_help(BUILD))
            }
            (Self::Etcd { program, members }, _) => {
                let program = arguments.etcd.clone().unwrap_or(program);
                let program = usable(&program).map_err(|why| CliError::failed(why).with_help(GET))?;
                Ok(Self::Etcd { program, members })
            }
            (Self::Embedded, _) => Ok(Self::Embedded),
        }
    }
}

/// Whether there are options that mean something only with a store in etcd.
fn names_etcd(arguments: &ClusterUpArgs) -> bool {
    arguments.etcd.is_some() || arguments.etcd_members.is_some()
}

/// What there is where a member of etcd is to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum EtcdPort {
    /// Nothing listens.
    Closed,
    /// It listens: that it does from the first moment of its start, also where it ends at the next, and as long as most members
    /// are away.
    Listens,
    /// It has found the other members, and answers, be it that it is not well.
    Answers,
}

impl EtcdPort {
    /// Asks for its health, and waits for so long.
    pub(super) fn of(address: &SocketAddr, patience: Duration) -> Self {
        let Ok(mut stream) = TcpStream::connect_timeout(address, patience) else { return Self::Closed };
        let mut answer = [0; 7];
        let asked = stream.set_read_timeout(Some(patience)).and_then(|()| {
            stream.write_all(format!("GET /health HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").as_bytes())
        });
        let answered = asked.and_then(|()| stream.read_exact(&mut answer));
        if answered.is_ok() && answer == *b"HTTP/1." { Self::Answers } else { Self::Listens }
    }
}

/// The path of an etcd that loses nothing; else why it is none.
fn usable(program: &Path) -> Result<PathBuf, String> {
    let output = Command::new(program).arg("--version").output();
    let output = output.map_err(|error| format!("{}: {error}", program.display()))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let version = text.lines().find_map(|line| line.strip_prefix("etcd Version: "));
    let version = version.ok_or_else(|| format!("{} does not say which version of etcd it is", program.display()))?;
    if is_too_old(version.trim()) {
        return Err(format!("{} is etcd {version}, which can lose acknowledged writes", program.display()));
    }
    // A name is looked up again at every start: an absolute path stays.
    Ok(if program.components().count() > 1 {
        std::path::absolute(program).unwrap_or_else(|_| program.into())
    } else {
        program.into()
    })
}

#[cfg(feature = "etcd")]
fn is_too_old(version: &str) -> bool {
    walser_metastore::etcd_is_too_old(version)
}

#[cfg(not(feature = "etcd"))]
fn is_too_old(_version: &str) -> bool {
    false
}

fn unreadable(file: &Path, why: &dyn std::fmt::Display) -> CliError {
    let text = format!("{} says where the metadata of this cluster is, and cannot be read: {why}", file.display());
    CliError::failed(text).with_help(
        "put it back as it was; it holds \"embedded\", or {\"etcd\": {\"program\": PATH, \"members\": COUNT}}",
    )
}

#[test]
fn options_of_etcd_are_refused_where_the_store_is_not_in_etcd() {
    let place = tempfile::tempdir().unwrap();
    let directory = ClusterDirectory::lock(place.path()).unwrap();
    let arguments = |etcd_members, metastore| ClusterUpArgs {
        place: crate::cli::ClusterPlace { dir: place.path().to_owned() },
        controllers: None,
        metastore,
        etcd_members,
        etcd: None,
        storage_nodes: None,
        group_coordinators: None,
        gateways: None,
        tls: false,
    };
    let embedded = Some(ClusterMetastoreKind::Embedded);
    let decide = |arguments| ClusterMetastore::decide(&directory, &arguments);
    assert!(decide(arguments(Some(3), embedded)).is_err());
    assert_eq!(decide(arguments(None, embedded)).unwrap(), ClusterMetastore::Embedded);
    assert!(decide(arguments(Some(3), None)).is_err(), "it was formed without");
    assert_eq!(decide(arguments(None, None)).unwrap(), ClusterMetastore::Embedded);
    std::fs::write(directory.metastore_file(), "emb").unwrap();
    let refused = format!("{:?}", decide(arguments(None, embedded)).unwrap_err());
    assert!(refused.contains("metastore.json"), "{refused}");
}
