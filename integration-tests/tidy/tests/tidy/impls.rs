//! The methods of a type are where it is defined, so that its private fields are seen by one module and no more.

use std::collections::{BTreeMap, BTreeSet};

use crate::exceptions::assert_only_listed;
use crate::tree::{Source, example, is_within, sources};

/// The length of `exceptions/impls.txt`.
const IMPLS_MAX: usize = 6;

#[test]
fn a_type_is_implemented_in_the_module_that_defines_it() {
    assert_only_listed("impls", IMPLS_MAX, &impls_elsewhere(sources()));
}

/// An `impl` without a trait belongs into the file that defines the type, or below: `foo.rs` continues in `foo/`.
/// A type that no file defines is generated, and has no file of its own.
fn impls_elsewhere(sources: &[Source]) -> BTreeSet<String> {
    let mut defined: BTreeMap<(&str, &str), Vec<&str>> = BTreeMap::new();
    for source in sources {
        for name in source.items.types.iter().map(|defined| defined.name.as_str()) {
            defined.entry((source.krate(), name)).or_default().push(source.path.trim_end_matches(".rs"));
        }
    }
    let mut found = BTreeSet::new();
    for source in sources {
        for name in &source.items.inherent_impls {
            let Some(modules) = defined.get(&(source.krate(), name)) else { continue };
            let path = source.path.trim_end_matches(".rs");
            if !modules.iter().any(|module| is_within(path, module)) {
                found.insert(format!("{}: {name}", source.path));
            }
        }
    }
    found
}

#[test]
fn an_impl_is_found_outside_the_file_and_folder_of_its_type() {
    let found = impls_elsewhere(&example(&[
        ("libs/a/src/lib.rs", "pub struct Root; impl Root {} mod log; mod append;"),
        ("libs/a/src/log.rs", "pub struct Log<T>(T); impl<T> Log<T> {} pub struct Other; mod append;"),
        ("libs/a/src/log/append.rs", "impl<T> Log<T> {} impl super::Other {}"),
        ("libs/a/src/append.rs", "impl crate::log::Log<u8> {} impl Root {} impl Default for Other {}"),
        ("libs/a/src/logs/append.rs", "impl Other {}"),
        ("libs/b/src/log.rs", "struct Log; impl Log {}"),
        ("libs/b/src/tested.rs", "#[cfg(test)] impl Log {}"),
        ("libs/b/src/convert.rs", "impl crate::Generated {}"),
    ]));
    let wanted = ["libs/a/src/append.rs: Log", "libs/a/src/append.rs: Root", "libs/a/src/logs/append.rs: Other"];
    assert_eq!(found.into_iter().collect::<Vec<_>>(), wanted);
}
