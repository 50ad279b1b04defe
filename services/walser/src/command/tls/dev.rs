//! Files of certificates in a directory.

use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use walser_tls::{Authority, Issued, PeerIdentity, Purpose, ServiceRole};

use crate::error::CliError;

/// What clients believe, and what they are shown.
const CA: &str = "ca";
const SERVER: &str = "server";
const CLIENT: &str = "client";
/// What processes of the cluster believe.
const INTERNAL_CA: &str = "internal-ca";
/// Names by which a server on this machine is reached.
const LOCAL: [&str; 3] = ["localhost", "127.0.0.1", "::1"];

/// Where the files of a directory are.
#[derive(Debug, Clone)]
pub(crate) struct DevelopmentFiles(pub(crate) PathBuf);

// === impl DevelopmentFiles ===

impl DevelopmentFiles {
    /// The settings with which a process of this role uses them.
    pub(crate) fn settings(&self, role: ServiceRole) -> Vec<String> {
        let path = |name: &str, kind: &str| self.0.join(format!("{name}.{kind}")).display().to_string();
        let mut settings = vec![
            format!("internal.tls.cert.file={}", path(role.name(), "crt")),
            format!("internal.tls.key.file={}", path(role.name(), "key")),
            format!("internal.tls.ca.file={}", path(INTERNAL_CA, "crt")),
        ];
        if role == ServiceRole::Gateway {
            settings.push(format!("tls.cert.file={}", path(SERVER, "crt")));
            settings.push(format!("tls.key.file={}", path(SERVER, "key")));
        }
        settings
    }

    /// The authority that clients believe.
    pub(crate) fn ca(&self) -> PathBuf {
        self.0.join(format!("{CA}.crt"))
    }
}

/// Makes what is missing in a directory, or has expired there. Returns the files that were made.
///
/// # Errors
/// When the system refuses, a name is none, or an authority's certificate is there without its key.
pub(crate) fn make(dir: &Path, cluster: &str, hosts: &[String], valid: Duration) -> Result<Vec<PathBuf>, CliError> {
    let of_cluster = |role| PeerIdentity { cluster: cluster.to_owned(), role, id: None };
    std::fs::create_dir_all(dir).map_err(|error| failed(dir, &error))?;
    let mut directory = Directory { dir, made: Vec::new(), anew: false };
    let public = directory.authority(CA, "Walser development authority", valid)?;
    let names = LOCAL.into_iter().map(str::to_owned).chain(hosts.iter().cloned()).collect();
    directory.certificate(&public, SERVER, &Purpose::Server(names), valid)?;
    directory.certificate(&public, CLIENT, &Purpose::Client(CLIENT.to_owned()), valid)?;
    let internal = directory.authority(INTERNAL_CA, &format!("Walser cluster {cluster}"), valid)?;
    for role in ServiceRole::ALL {
        directory.certificate(&internal, role.name(), &Purpose::Process(of_cluster(role)), valid)?;
    }
    Ok(directory.made)
}

/// A directory that is being filled.
struct Directory<'a> {
    dir: &'a Path,
    made: Vec<PathBuf>,
    /// The authority was made now: what an earlier one has signed is believed by nobody who believes it.
    anew: bool,
}

// === impl Directory ===

impl Directory<'_> {
    fn path(&self, name: &str, kind: &str) -> PathBuf {
        self.dir.join(format!("{name}.{kind}"))
    }

    /// The authority of this name: as it is there, or a new one.
    fn authority(&mut self, name: &str, shown: &str, valid: Duration) -> Result<Authority, CliError> {
        let [cert, key] = ["crt", "key"].map(|kind| self.path(name, kind));
        self.anew = false;
        match (read(&cert)?, read(&key)?) {
            (Some(cert), Some(key)) if !self.has_expired(name)? => {
                let opened = Authority::open(&Issued { cert, key });
                opened.map_err(|error| CliError::failed(format!("{}: {error}", self.path(name, "crt").display())))
            }
            (Some(_), Some(_)) | (None, None) => {
                let made = Authority::new(shown, super::now(), valid);
                let (authority, kept) = made.map_err(|error| CliError::failed(error.to_string()))?;
                self.write(name, &kept)?;
                self.anew = true;
                Ok(authority)
            }
            (Some(_), None) => Err(half(&cert, &key)),
            (None, Some(_)) => Err(half(&key, &cert)),
        }
    }

    /// Whether the certificate of this name is valid for less than a minute. Of one that is none, others say what is wrong.
    fn has_expired(&self, name: &str) -> Result<bool, CliError> {
        let text = read(&self.path(name, "crt"))?;
        let end = text.and_then(|text| walser_tls::not_after(&text).ok());
        Ok(end.is_some_and(|end| u64::try_from(end).unwrap_or(0) < super::now() + 60))
    }

    /// A certificate of this name, unless it is there, and valid.
    fn certificate(
        &mut self,
        authority: &Authority,
        name: &str,
        purpose: &Purpose,
        valid: Duration,
    ) -> Result<(), CliError> {
        let there = ["crt", "key"].iter().all(|kind| self.path(name, kind).exists());
        if !self.anew && there && !self.has_expired(name)? {
            return Ok(());
        }
        self.write(name, &super::issue(authority, purpose, super::now(), valid)?)
    }

    fn write(&mut self, name: &str, issued: &Issued) -> Result<(), CliError> {
        for (kind, mode, text) in [("key", 0o600, &issued.key), ("crt", 0o644, &issued.cert)] {
            let path = self.path(name, kind);
            let _ = std::fs::remove_file(&path);
            let file = std::fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&path);
            file.and_then(|mut file| file.write_all(text.as_bytes())).map_err(|error| failed(&path, &error))?;
            self.made.push(path);
        }
        Ok(())
    }
}

fn read(path: &Path) -> Result<Option<String>, CliError> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed(path, &error)),
    }
}

fn half(there: &Path, missing: &Path) -> CliError {
    let error = CliError::failed(format!("{} is there without {}", there.display(), missing.display()));
    error.with_help("put it back, or choose an empty directory")
}

fn failed(path: &Path, error: &std::io::Error) -> CliError {
    CliError::failed(format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    const DAY: Duration = Duration::from_secs(86_400);

    #[test]
    fn what_is_there_is_kept_and_what_is_missing_is_made() {
        let dir = tempfile::tempdir().unwrap();
        let made = make(dir.path(), "c", &[], DAY).unwrap();
        assert_eq!(made.len(), 16, "{made:?}");
        let mode = |name: &str| std::fs::metadata(dir.path().join(name)).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode("ca.key"), mode("gateway.key"), mode("ca.crt")), (0o600, 0o600, 0o644));
        assert_eq!(make(dir.path(), "c", &[], DAY).unwrap(), Vec::<PathBuf>::new());
        let before = std::fs::read(dir.path().join("ca.crt")).unwrap();
        std::fs::remove_file(dir.path().join("server.crt")).unwrap();
        assert_eq!(make(dir.path(), "c", &["x.example".to_owned()], DAY).unwrap().len(), 2);
        assert_eq!(std::fs::read(dir.path().join("ca.crt")).unwrap(), before);
        for file in ["ca.crt", "ca.key"] {
            std::fs::remove_file(dir.path().join(file)).unwrap();
        }
        assert_eq!(make(dir.path(), "c", &[], DAY).unwrap().len(), 6, "a new authority, and what it has to sign");
        std::fs::remove_file(dir.path().join("internal-ca.key")).unwrap();
        assert!(make(dir.path(), "c", &[], DAY).unwrap_err().what().contains("internal-ca.key"));
    }

    #[test]
    fn what_has_expired_is_made_anew_and_an_authority_with_all_that_it_has_signed() {
        let dir = tempfile::tempdir().unwrap();
        make(dir.path(), "c", &[], DAY).unwrap();
        let end = |name: &str| walser_tls::not_after(&std::fs::read_to_string(dir.path().join(name)).unwrap()).unwrap();
        let valid = end("server.crt");
        std::fs::remove_file(dir.path().join("server.crt")).unwrap();
        make(dir.path(), "c", &[], Duration::ZERO).unwrap();
        assert!(end("server.crt") < valid);
        assert_eq!(make(dir.path(), "c", &[], DAY).unwrap().len(), 2, "the certificate and its key");
        assert!(end("server.crt") >= valid);
        for kind in ["crt", "key"] {
            std::fs::remove_file(dir.path().join(format!("internal-ca.{kind}"))).unwrap();
        }
        make(dir.path(), "c", &[], Duration::ZERO).unwrap();
        assert_eq!(make(dir.path(), "c", &[], DAY).unwrap().len(), 10, "the authority and four certificates");
        assert_eq!(make(dir.path(), "c", &[], DAY).unwrap(), Vec::<PathBuf>::new());
    }

    #[test]
    fn names_that_certificates_cannot_have_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        for cluster in ["", "a/b", "a b", "é"] {
            assert!(super::super::cluster_name(cluster).is_err(), "{cluster}");
        }
        assert!(make(dir.path(), "c", &["é".to_owned()], DAY).is_err());
    }
}
