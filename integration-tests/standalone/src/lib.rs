//! Tests of the server as a process, from outside; see `tests/standalone.rs`.
