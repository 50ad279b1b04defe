//! Arrows between crates, and between the modules of a service, go down only.

use std::collections::{BTreeMap, BTreeSet};

use crate::exceptions::assert_only_listed;
use crate::tokens::Segments;
use crate::tree::{Source, dependencies, example, folder_of, is_within, manifests, root, sources};

/// Layers: a crate depends only on crates of lower layers.
const LAYERS: [(&str, u8); 13] = [
    ("walser-model", 0),
    ("walser-record-batch", 1),
    ("walser-proto", 1),
    ("walser-tls", 1),
    ("walser-log", 2),
    ("walser-replication", 2),
    ("walser-sequencer", 2),
    ("walser-group", 2),
    ("walser-metastore", 2),
    ("walser-service", 2),
    ("walser-metadata", 3),
    ("walser-rpc", 4),
    ("walser-client", 5),
];
/// Crates without network, runtime and clock.
const PURE: [&str; 7] = [
    "walser-model",
    "walser-record-batch",
    "walser-log",
    "walser-replication",
    "walser-sequencer",
    "walser-group",
    "walser-metadata",
];
/// The length of `exceptions/module-arrows.txt`.
const MODULE_ARROWS_MAX: usize = 0;

#[test]
fn arrows_go_down_only() {
    let layers = BTreeMap::from(LAYERS);
    let mut broken = Vec::new();
    for (name, (dir, manifest)) in manifests() {
        let service = dir.starts_with(root().join("services"));
        let library = dir.starts_with(root().join("libs"));
        assert!(!library || layers.contains_key(name.as_str()), "{name} needs a row in LAYERS");
        for dependency in dependencies(&manifest).into_iter().filter(|name| name.starts_with("walser-")) {
            let to_service = !layers.contains_key(dependency.as_str());
            let allowed = match layers.get(name.as_str()) {
                Some(layer) => layers.get(dependency.as_str()).is_some_and(|below| below < layer),
                None => !to_service || name == "walser" || !service,
            };
            if !allowed {
                broken.push(format!("{name} must not depend on {dependency}"));
            }
        }
    }
    assert_eq!(broken, Vec::<String>::new());
}

#[test]
fn pure_crates_stay_free_of_the_network() {
    let manifests = manifests();
    for name in PURE {
        let (_, manifest) = &manifests[name];
        let used = dependencies(manifest);
        for banned in ["tonic", "tokio", "prost", "redb"] {
            assert!(!used.contains(banned), "{name} must not depend on {banned}");
        }
    }
    for (name, (_, manifest)) in &manifests {
        let etcd = dependencies(manifest).contains("etcd-client");
        assert!(!etcd || name == "walser-metastore", "{name} must not talk to the metadata store");
    }
}

/// `api` is the door of a service: it uses what is inside, and only `lib.rs`, or `service.rs` for it, opens it.
#[test]
fn only_the_root_of_a_service_uses_its_api() {
    assert_only_listed("module-arrows", MODULE_ARROWS_MAX, &uses_of_api(sources()));
}

fn uses_of_api(sources: &[Source]) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for source in sources.iter().filter(|source| !source.test) {
        let Some((_, module)) = source.path.split_once("/src/") else { continue };
        if ["lib.rs", "main.rs", "service.rs"].contains(&module) || is_within(module.trim_end_matches(".rs"), "api") {
            continue;
        }
        let module: Vec<&str> = folder_of(module).split('/').collect();
        let used = source.paths.iter().map(|path| from_the_root(&module, path));
        let used = used.filter(|path| path.starts_with(&["crate".to_owned(), "api".to_owned()]));
        found.extend(used.map(|path| format!("{}: {}", source.path, path.join("::"))));
    }
    found
}

/// Writes a path with `self` and `super` as one that begins with `crate`.
fn from_the_root(module: &[&str], path: &Segments) -> Segments {
    let supers = path.iter().take_while(|segment| *segment == "super").count();
    let own = usize::from(path[0] == "self");
    if supers + own == 0 || supers > module.len() {
        return path.clone();
    }
    let above = module[..module.len() - supers].iter().map(|name| (*name).to_owned());
    ["crate".to_owned()].into_iter().chain(above).chain(path[supers + own..].iter().cloned()).collect()
}

#[test]
fn a_use_of_the_api_is_found_however_it_is_written() {
    let found = uses_of_api(&example(&[
        ("services/a/src/lib.rs", "mod api; use crate::api::Api; fn f() { api::routes() }"),
        ("services/a/src/service.rs", "use crate::api;"),
        ("services/a/src/api/topic.rs", "use crate::api::Api; use super::Api; use crate::topics;"),
        ("services/a/src/read.rs", "use crate::{budget, api::{draining, Api}};"),
        ("services/a/src/read/follow.rs", "fn f() { super::super::api::Api::new() }"),
        (
            "services/a/src/write.rs",
            "use crate::apis; // crate::api::Api\n #[cfg(test)] mod tests { use crate::api::Api; }",
        ),
        ("services/a/src/start.rs", "use crate::api::*; use super::api;"),
    ]));
    let wanted = [
        "services/a/src/read.rs: crate::api::Api",
        "services/a/src/read.rs: crate::api::draining",
        "services/a/src/read/follow.rs: crate::api::Api::new",
        "services/a/src/start.rs: crate::api",
        "services/a/src/start.rs: crate::api::*",
    ];
    assert_eq!(found.into_iter().collect::<Vec<_>>(), wanted);
}
