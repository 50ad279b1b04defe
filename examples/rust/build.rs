//! Compiles the contract, without protoc.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=./proto");
    let mut files = Vec::new();
    for entry in std::fs::read_dir("./proto/walser/v1")? {
        files.push(entry?.path());
    }
    let contract = protox::compile(files, ["./proto"])?;
    tonic_prost_build::configure().build_server(false).compile_fds(contract)?;
    Ok(())
}
