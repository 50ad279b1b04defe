//! Where a controller that is a process of its own has its metadata: in a file, or in etcd.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use walser_metastore::{Embedded, Metastore};
use walser_service::{Key, Kind, MainError, Settings, Shutdown};

/// Settings of the store.
pub(crate) const KEYS: &[Key] = &[
    Key {
        name: "controller.metastore",
        kind: Kind::Word(&["embedded", "etcd"]),
        default: "embedded",
        doc: "Where the metadata is: in controller.data, or in etcd.",
    },
    Key {
        name: "controller.data",
        kind: Kind::Text,
        default: "./controller-data",
        doc: "Directory of the metadata; not used with etcd.",
    },
    Key {
        name: "controller.etcd.endpoints",
        kind: Kind::Text,
        default: "",
        doc: "Members of etcd, as `http://HOST:PORT` or `https://HOST:PORT` with commas between them.",
    },
    Key {
        name: "controller.etcd.prefix",
        kind: Kind::Text,
        default: "/walser/",
        doc: "Prefix of all keys in etcd: another one for each cluster.",
    },
    Key { name: "controller.etcd.user", kind: Kind::Text, default: "", doc: "User of etcd; empty: none." },
    Key {
        name: "controller.etcd.password.file",
        kind: Kind::Text,
        default: "",
        doc: "File with the password of the user. It is followed like the certificates.",
    },
    Key {
        name: "controller.etcd.ca.file",
        kind: Kind::Text,
        default: "",
        doc: "File with the certificates (PEM) of the authorities by which etcd is known; for https.",
    },
    Key {
        name: "controller.etcd.cert.file",
        kind: Kind::Text,
        default: "",
        doc: "File with the certificate (PEM) by which etcd knows this controller.",
    },
    Key {
        name: "controller.etcd.key.file",
        kind: Kind::Text,
        default: "",
        doc: "File with the key (PEM) of controller.etcd.cert.file.",
    },
    Key {
        name: "controller.etcd.compact",
        kind: Kind::Bool,
        default: "false",
        doc: "Compact the history of etcd: only where nobody else uses it.",
    },
];

/// The file of an embedded store; `None` with etcd.
pub(crate) fn file(settings: &Settings) -> Option<PathBuf> {
    let embedded = settings.text("controller.metastore") == "embedded";
    embedded.then(|| Path::new(settings.text("controller.data")).join("metadata.redb"))
}

/// Opens the store; waits for etcd until it answers, or until the process is to stop.
pub(crate) async fn open(settings: &Settings, shutdown: &Shutdown) -> Result<Arc<dyn Metastore>, MainError> {
    let Some(file) = file(settings) else { return etcd::open(settings, shutdown).await };
    let store = Embedded::open(&file)
        .map_err(|error| format!("metadata store in {}: {error}", settings.text("controller.data")))?;
    Ok(Arc::new(store))
}

#[cfg(not(feature = "etcd"))]
mod etcd {
    use super::{Arc, MainError, Metastore, Settings, Shutdown};

    #[allow(clippy::unused_async, reason = "the one with etcd waits")]
    pub(super) async fn open(_settings: &Settings, _shutdown: &Shutdown) -> Result<Arc<dyn Metastore>, MainError> {
        let text = "controller.metastore=etcd: this program is built without etcd; `cargo build --release --features etcd` \
                    builds one with it, which needs protoc";
        Err(text.into())
    }
}

#[cfg(feature = "etcd")]
mod etcd {
    use std::time::Duration;

    use parking_lot::Mutex;
    use walser_metastore::{Etcd, EtcdConfig, EtcdCredentials, EtcdTls, StoreError};
    use walser_rpc::Outage;
    use walser_service::reload;
    use walser_tls::{ClientTls, ClientTlsContents, ClientTlsFiles};

    use super::{Arc, MainError, Metastore, PathBuf, Settings, Shutdown};
    use crate::error::store_failure;

    /// Pause before etcd is asked again that has not answered.
    const RETRY: Duration = Duration::from_millis(500);

    pub(super) async fn open(settings: &Settings, shutdown: &Shutdown) -> Result<Arc<dyn Metastore>, MainError> {
        let config = config(settings)?;
        let store = Etcd::new(&config)?;
        follow_files(&store, config.credentials, settings, shutdown);
        tokio::select! {
            answered = answers(&store) => answered?,
            () = shutdown.wait() => return Err("stopped before etcd has answered".into()),
        }
        Ok(Arc::new(store))
    }

    /// Takes what is new in the files of certificates and password.
    fn follow_files(store: &Etcd, read: EtcdCredentials, settings: &Settings, shutdown: &Shutdown) {
        let (store, used, from) = (store.clone(), Mutex::new(read), settings.clone());
        reload::follow("etcd", settings, shutdown, move || {
            let read = credentials(&from).map_err(|error| error.to_string())?;
            let mut used = used.lock();
            let new = *used != read;
            if new {
                store.renew(&read);
                *used = read;
            }
            Ok::<_, String>(new)
        });
    }

    /// Waits until etcd answers.
    async fn answers(store: &Etcd) -> Result<(), StoreError> {
        let mut outage = Outage::of("etcd");
        loop {
            match store.get("").await {
                Ok(_) => {
                    outage.ended();
                    return Ok(());
                }
                Err(error @ StoreError::Unavailable(_)) => outage.failed(&store_failure(error)),
                Err(error) => return Err(error),
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    /// The setting, where it is not empty.
    fn given<'a>(settings: &'a Settings, name: &str) -> Option<&'a str> {
        Some(settings.text(name)).filter(|value| !value.is_empty())
    }

    fn file(settings: &Settings, name: &str) -> Result<Option<Vec<u8>>, MainError> {
        let read = |path: &str| std::fs::read(path).map_err(|error| format!("{name}={path}: {error}").into());
        given(settings, name).map(read).transpose()
    }

    fn config(settings: &Settings) -> Result<EtcdConfig, MainError> {
        let endpoints: Vec<_> = settings.text("controller.etcd.endpoints").split(',').map(str::trim).collect();
        let wrong = |endpoint: &&&str| !endpoint.starts_with("http://") && !endpoint.starts_with("https://");
        if let Some(endpoint) = endpoints.iter().find(wrong) {
            return Err(format!(
                "controller.etcd.endpoints: \"{endpoint}\" is not of the form http://HOST:PORT or https://HOST:PORT"
            )
            .into());
        }
        let credentials = credentials(settings)?;
        let https = endpoints.iter().any(|endpoint| endpoint.starts_with("https://"));
        if https && credentials.tls.is_none() {
            return Err("https needs controller.etcd.ca.file: the authorities by which etcd is known".into());
        }
        let (prefix, compacts) =
            (settings.text("controller.etcd.prefix").to_owned(), settings.flag("controller.etcd.compact"));
        Ok(EtcdConfig { endpoints: endpoints.into_iter().map(str::to_owned).collect(), prefix, credentials, compacts })
    }

    /// User, password and certificates, as their files have them now. It waits for the disk.
    fn credentials(settings: &Settings) -> Result<EtcdCredentials, MainError> {
        let user = given(settings, "controller.etcd.user").map(str::to_owned);
        let password = file(settings, "controller.etcd.password.file")?;
        let user = match (user, password) {
            (None, None) => None,
            (Some(user), Some(password)) => {
                Some((user, String::from_utf8_lossy(&password).trim_end_matches(['\r', '\n']).to_owned()))
            }
            _ => return Err("controller.etcd.user and controller.etcd.password.file go together".into()),
        };
        let path = |name: &str| given(settings, name).map(PathBuf::from);
        let own = match (path("controller.etcd.cert.file"), path("controller.etcd.key.file")) {
            (None, None) => None,
            (Some(certificate), Some(key)) => Some((certificate, key)),
            _ => return Err("controller.etcd.cert.file and controller.etcd.key.file go together".into()),
        };
        let tls = match path("controller.etcd.ca.file") {
            Some(ca) => {
                // etcd's client says of files that cannot be used only that it does not get through.
                let files = ClientTlsFiles { ca: Some(ca), own, server_name: None };
                let loaded = ClientTls::load(&files).map_err(|error| format!("settings controller.etcd.*: {error}"))?;
                let ClientTlsContents { ca, own: identity } = loaded.contents();
                ca.map(|ca| EtcdTls { ca, identity })
            }
            None if own.is_some() => return Err("controller.etcd.cert.file needs controller.etcd.ca.file".into()),
            None => None,
        };
        Ok(EtcdCredentials { user, tls })
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        fn configured(pairs: &[&str]) -> Result<EtcdConfig, MainError> {
            let pairs: Vec<_> = pairs.iter().map(|pair| (*pair).to_owned()).collect();
            config(&Settings::load(&[super::super::KEYS], None, |_| None, &pairs).unwrap())
        }

        #[test]
        fn settings_of_etcd_that_do_not_fit_are_refused_with_what_to_do() {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("secret");
            std::fs::write(&path, "word\n").unwrap();
            let of_file = |name: &str| format!("controller.etcd.{name}.file={}", path.display());
            let endpoints = "controller.etcd.endpoints=http://a:2379, http://b:2379";
            let user = "controller.etcd.user=walser";
            let found = configured(&[endpoints, user, &of_file("password")]).unwrap();
            assert_eq!(found.endpoints, ["http://a:2379", "http://b:2379"]);
            assert_eq!(found.credentials.user, Some(("walser".to_owned(), "word".to_owned())));
            let secure = "controller.etcd.endpoints=https://a:2379";
            let refused: [(&[&str], &str); 7] = [
                (&[], "is not of the form"),
                (&["controller.etcd.endpoints=a:2379"], "\"a:2379\" is not of the form"),
                (&[endpoints, user], "go together"),
                (&[secure], "needs controller.etcd.ca.file"),
                (&[secure, &of_file("ca"), &of_file("cert")], "go together"),
                (&[endpoints, "controller.etcd.ca.file=/nowhere"], "/nowhere"),
                (&[secure, &of_file("ca")], "it is not a PEM file"),
            ];
            for (pairs, text) in refused {
                let error = configured(pairs).unwrap_err().to_string();
                assert!(error.contains(text), "{pairs:?}: {error}");
            }
        }
    }
}
