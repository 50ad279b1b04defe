//! Compiles `/proto` without protoc: messages, services, the descriptor set for reflection, and canonical JSON.

use std::error::Error;
use std::path::{Path, PathBuf};

use prost::Message as _;

fn main() -> Result<(), Box<dyn Error>> {
    let root = Path::new("../../proto");
    println!("cargo:rerun-if-changed={}", root.display());
    let mut files = Vec::new();
    for package in ["walser/v1", "walser/internal/v1"] {
        for entry in std::fs::read_dir(root.join(package))? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "proto") {
                files.push(path);
            }
        }
    }
    files.sort();
    let descriptors = protox::compile(&files, [root])?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    let encoded = descriptors.encode_to_vec();
    std::fs::write(out.join("descriptors.bin"), &encoded)?;
    write_sources(&files, root, &out)?;

    let mut config = prost_build::Config::new();
    config.bytes(["."]).enable_type_names();
    tonic_prost_build::configure()
        .codec_path("crate::codec::Codec")
        .compile_well_known_types(true)
        .extern_path(".google.protobuf", "::pbjson_types")
        .compile_fds_with_config(descriptors, config)?;
    pbjson_build::Builder::new().register_descriptors(&encoded)?.build(&[".walser.v1"])?;
    Ok(())
}

/// Writes a table of the public files' texts, for `walser proto export`.
fn write_sources(files: &[PathBuf], root: &Path, out: &Path) -> Result<(), Box<dyn Error>> {
    let mut table = String::from("&[\n");
    for file in files.iter().filter(|file| file.starts_with(root.join("walser/v1"))) {
        let absolute = std::fs::canonicalize(file)?;
        let name = file.strip_prefix(root)?;
        table.push_str(&format!("    ({:?}, include_str!({:?})),\n", name.display().to_string(), absolute));
    }
    table.push_str("]\n");
    std::fs::write(out.join("sources.rs"), table)?;
    Ok(())
}
