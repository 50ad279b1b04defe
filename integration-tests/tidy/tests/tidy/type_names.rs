//! A public type has a name of its own, so that a reader and a search find one thing under it.

use std::collections::{BTreeMap, BTreeSet};

use crate::exceptions::assert_only_listed;
use crate::tree::{Source, example, proto_files, sources};

/// Names that every crate may have, because its own name tells them apart.
const OF_EVERY_CRATE: [&str; 7] = ["Action", "Args", "Config", "Error", "Event", "StartError", "State"];
/// The length of `exceptions/type-names.txt`.
const TYPE_NAMES_MAX: usize = 17;

#[test]
fn a_name_of_a_public_type_is_used_once() {
    let protos = proto_files().into_iter().map(|(path, text)| (path, proto_names(&text))).collect();
    assert_only_listed("type-names", TYPE_NAMES_MAX, &names_used_twice(sources(), &protos));
}

/// Public types of two crates with one name, and those named like something in a proto file.
fn names_used_twice(sources: &[Source], protos: &BTreeMap<String, Vec<String>>) -> BTreeSet<String> {
    let mut places: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for source in sources.iter().filter(|source| !source.test) {
        for defined in source.items.types.iter().filter(|defined| defined.public) {
            places.entry(&defined.name).or_default().insert(source.krate());
        }
    }
    places.retain(|name, crates| {
        let crates_only = crates.len();
        let of_protos = protos.iter().filter(|(_, names)| names.iter().any(|of_proto| of_proto == name));
        crates.extend(of_protos.map(|(path, _)| path.as_str()));
        crates.len() > crates_only || crates_only > 1 && !OF_EVERY_CRATE.contains(name)
    });
    let line = |(name, places): (&str, BTreeSet<&str>)| {
        format!("{name}: {}", places.into_iter().collect::<Vec<_>>().join(", "))
    };
    places.into_iter().map(line).collect()
}

/// The messages, enums and services of a proto file, nested ones too.
fn proto_names(text: &str) -> Vec<String> {
    let code: String = text.lines().map(|line| format!("{} ", line.split("//").next().unwrap_or(line))).collect();
    let words: Vec<&str> = code.split_inclusive(['{', '}', ';']).flat_map(str::split_whitespace).collect();
    let named = words.windows(2).filter(|pair| ["message", "enum", "service"].contains(&pair[0]));
    named.filter(|pair| pair[1].starts_with(char::is_uppercase)).map(|pair| pair[1].replace('{', "")).collect()
}

#[test]
fn a_name_of_two_crates_or_of_the_contract_is_found() {
    let sources = example(&[
        ("libs/a/src/lib.rs", "pub struct Log; pub struct Config; pub struct Topic; struct Private; pub enum Error {}"),
        ("libs/a/src/other.rs", "pub trait Log {} pub type Once = u8;"),
        ("libs/b/src/lib.rs", "pub enum Log {} pub struct Config; pub(crate) struct Once; pub struct Private;"),
        ("libs/b/tests/b.rs", "pub struct Topic; pub struct Once;"),
        ("libs/b/src/tested.rs", "#[cfg(test)] mod tests { pub struct Once; }"),
    ]);
    let protos = [("proto/a.proto", "Topic"), ("proto/b.proto", "Error"), ("proto/c.proto", "Private")];
    let protos = protos.map(|(path, name)| (path.to_owned(), vec![name.to_owned()]));
    let found = names_used_twice(&sources, &BTreeMap::from(protos));
    let wanted = [
        "Error: libs/a, proto/b.proto",
        "Log: libs/a, libs/b",
        "Private: libs/b, proto/c.proto",
        "Topic: libs/a, proto/a.proto",
    ];
    assert_eq!(found.into_iter().collect::<Vec<_>>(), wanted);
}

#[test]
fn names_of_a_proto_file_are_read() {
    let text = "
        // message NotThis { }
        service S { rpc Call(A) returns (B); }
        message A { string message = 1; enum Inner { X = 0; } message Deep{} } // enum NorThis {}
        enum
        E {}
    ";
    assert_eq!(proto_names(text), ["S", "A", "Inner", "Deep", "E"]);
}
