//! The storage node as a process of its own.

use std::process::ExitCode;

/// Appends allocate and free buffers of a megabyte all the time; the system's allocator gives them back to the
/// kernel each time, and touching them again costs more than everything else.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    walser_storage_node::main(std::env::args_os())
}
