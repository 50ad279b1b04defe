//! The group coordinator as a process of its own.

use std::process::ExitCode;

/// Groups are many small values that come and go; see the storage node.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    walser_group_coordinator::main(std::env::args_os())
}
