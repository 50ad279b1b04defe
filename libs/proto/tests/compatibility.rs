//! The public contract may only grow: every `message.field = number type oneof` and every reserved number is compared
//! with a golden file.
//! `UPDATE_GOLDEN=1 cargo test -p walser-proto` rewrites it.

#![allow(clippy::unwrap_used, reason = "a test that fails says where")]

use std::collections::BTreeSet;
use std::path::Path;

use prost::Message as _;
use prost_types::method_options::IdempotencyLevel;
use prost_types::{DescriptorProto, FileDescriptorSet};

fn describe(prefix: &str, message: &DescriptorProto, lines: &mut BTreeSet<String>) {
    let name = format!("{prefix}.{}", message.name());
    for field in &message.field {
        let kind = match field.type_name() {
            "" => field.r#type().as_str_name().trim_start_matches("TYPE_").to_lowercase(),
            named => named.trim_start_matches('.').to_owned(),
        };
        let label = field.label().as_str_name().trim_start_matches("LABEL_").to_lowercase();
        // A field with presence is the only member of a oneof that the compiler makes.
        let membership = match field.oneof_index {
            _ if field.proto3_optional() => " presence".to_owned(),
            Some(index) => format!(" oneof {}", message.oneof_decl[usize::try_from(index).unwrap()].name()),
            None => String::new(),
        };
        lines.insert(format!("{name}.{} = {} {label} {kind}{membership}", field.name(), field.number()));
    }
    for range in &message.reserved_range {
        lines.extend((range.start()..range.end()).map(|number| format!("{name} reserves {number}")));
    }
    lines.extend(message.reserved_name.iter().map(|reserved| format!("{name} reserves \"{reserved}\"")));
    for nested in &message.nested_type {
        describe(&name, nested, lines);
    }
}

fn contract() -> BTreeSet<String> {
    let set = FileDescriptorSet::decode(walser_proto::DESCRIPTORS).unwrap();
    let mut lines = BTreeSet::new();
    for file in set.file.iter().filter(|file| file.package() == "walser.v1") {
        for message in &file.message_type {
            describe(file.package(), message, &mut lines);
        }
        for kind in &file.enum_type {
            for value in &kind.value {
                lines.insert(format!("{}.{} = {}", file.package(), value.name(), value.number()));
            }
            for range in &kind.reserved_range {
                let name = format!("{}.{}", file.package(), kind.name());
                // Unlike that of a message, the end of an enum's range is inclusive.
                lines.extend((range.start()..=range.end()).map(|number| format!("{name} reserves {number}")));
            }
        }
        for service in &file.service {
            for method in &service.method {
                let (input, output) = (method.input_type(), method.output_type());
                let (client, server) = (method.client_streaming(), method.server_streaming());
                lines.insert(format!(
                    "{}.{}.{} ({input}{}) returns ({output}{})",
                    file.package(),
                    service.name(),
                    method.name(),
                    if client { " stream" } else { "" },
                    if server { " stream" } else { "" },
                ));
            }
        }
    }
    lines
}

#[test]
fn the_public_contract_only_grows() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../proto/api.golden");
    let now = contract();
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        let text: Vec<_> = now.iter().map(String::as_str).collect();
        std::fs::write(&path, text.join("\n") + "\n").unwrap();
    }
    let golden = std::fs::read_to_string(&path).unwrap();
    let golden: BTreeSet<String> = golden.lines().map(str::to_owned).collect();
    // A number that was kept for a planned field may become that field.
    let gone: Vec<_> = golden.difference(&now).filter(|line| !line.contains(" reserves ")).collect();
    assert!(gone.is_empty(), "the contract lost or changed {gone:#?}");
    let new: Vec<_> = now.difference(&golden).collect();
    assert!(new.is_empty(), "run UPDATE_GOLDEN=1 cargo test -p walser-proto to add {new:#?}");
}

#[test]
fn public_files_import_only_themselves_and_google_protobuf() {
    for (name, text) in walser_proto::SOURCES {
        for line in text.lines().filter(|line| line.starts_with("import ")) {
            let allowed = line.contains("\"walser/v1/") || line.contains("\"google/protobuf/");
            assert!(allowed, "{name}: {line}");
        }
    }
}

/// Callers repeat calls that only read where an answer is lost, and know them by their names: `Get` and `List`.
#[test]
fn what_is_called_get_or_list_has_no_side_effects() {
    let set = FileDescriptorSet::decode(walser_proto::DESCRIPTORS).unwrap();
    let methods = set.file.iter().flat_map(|file| &file.service).flat_map(|service| &service.method);
    let named: Vec<_> = methods.filter(|it| it.name().starts_with("Get") || it.name().starts_with("List")).collect();
    assert!(named.len() > 8, "{}", named.len());
    for method in named {
        let level = method.options.as_ref().map(|options| options.idempotency_level());
        assert_eq!(level, Some(IdempotencyLevel::NoSideEffects), "{}", method.name());
    }
}
