//! The gateway as a process of its own.

use std::process::ExitCode;

/// Batches are buffers of a megabyte that come and go; see the storage node.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    walser_gateway::main(std::env::args_os())
}
