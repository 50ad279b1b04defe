//! Wire types stop at the door of a service: what decides has types of its own.

use std::collections::BTreeSet;

use crate::exceptions::assert_only_listed;
use crate::tree::{Source, example, is_within, sources};

/// Whose paths are wire types: the generated code with its aliases, gRPC, and the crates that encode its messages.
const WIRE: [&str; 8] = ["pb", "pbi", "walser_proto", "tonic", "tonic_types", "prost", "prost_types", "pbjson_types"];
/// The crates that carry wire types.
const CARRIERS: [&str; 4] = ["libs/proto", "libs/rpc", "libs/client", "libs/service"];
/// The length of `exceptions/wire-types.txt`.
const WIRE_TYPES_MAX: usize = 9;

#[test]
fn wire_types_stop_at_the_api_of_a_service() {
    assert_only_listed("wire-types", WIRE_TYPES_MAX, &uses_of_wire_types(sources()));
}

fn uses_of_wire_types(sources: &[Source]) -> BTreeSet<String> {
    let inside = sources.iter().filter(|source| !source.test && !may_use_wire_types(&source.path));
    let found = inside.filter(|source| source.paths.iter().flatten().any(|segment| WIRE.contains(&segment.as_str())));
    found.map(|source| source.path.clone()).collect()
}

/// Where a client asks the API and shows its answers.
const COMMANDS: &str = "services/walser/src/command";

/// Whether a file is in a crate that carries wire types, in an `api` module, a command of the command line, or puts a
/// service together.
fn may_use_wire_types(path: &str) -> bool {
    let of_a_service = |module: &str| {
        let module = module.trim_end_matches(".rs");
        path.starts_with("services/") && (["lib", "main", "service"].contains(&module) || is_within(module, "api"))
    };
    CARRIERS.iter().any(|carrier| is_within(path, carrier))
        || path.starts_with("integration-tests/")
        || is_within(path, COMMANDS)
        || path.split_once("/src/").is_some_and(|(_, module)| of_a_service(module))
}

#[test]
fn a_wire_type_is_found_inside_and_not_at_the_door() {
    let used = "use walser_proto::v1 as pb; fn f(topic: pb::Topic) {}";
    let found = uses_of_wire_types(&example(&[
        ("services/a/src/api.rs", used),
        ("services/a/src/api/topic.rs", used),
        ("services/a/src/lib.rs", used),
        ("services/a/src/main.rs", used),
        ("services/a/src/service.rs", used),
        ("services/a/tests/a.rs", used),
        ("libs/rpc/src/reason.rs", used),
        ("integration-tests/sim/src/node.rs", used),
        ("services/walser/src/command/topic.rs", used),
        ("services/a/src/apis.rs", used),
        ("services/a/src/topic/api.rs", used),
        ("libs/model/src/lib.rs", used),
        ("libs/rpc-model/src/id.rs", used),
        ("services/a/src/alias.rs", "use walser_proto as wire;"),
        ("services/a/src/group.rs", "use {bytes::Bytes, tonic::Status};"),
        ("services/a/src/inline.rs", "fn f() -> Result<(), Box<::tonic::Status>> { Ok(()) }"),
        ("services/a/src/in_macro.rs", "fn f() { select! { x = y => pbi::Topic::default() } }"),
        ("services/a/src/clean.rs", "/// Not a `pb::Topic`.\nfn f(pb: u8) { g(pb, \"pb::Topic\") }"),
        ("services/a/src/tested.rs", "#[cfg(test)] mod tests { use tonic::Status; }"),
    ]));
    let wanted = ["alias", "apis", "group", "in_macro", "inline", "topic/api"];
    let wanted = wanted.map(|module| format!("services/a/src/{module}.rs"));
    let wanted =
        [&["libs/model/src/lib.rs".to_owned(), "libs/rpc-model/src/id.rs".to_owned()], wanted.as_slice()].concat();
    assert_eq!(found.into_iter().collect::<Vec<_>>(), wanted);
}
