//! The controller as a process of its own, on an embedded metadata store.

use std::process::ExitCode;

fn main() -> ExitCode {
    walser_controller::main(std::env::args_os())
}
