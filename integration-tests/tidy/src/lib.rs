//! Checks of the house itself; see `tests/tidy.rs`.
