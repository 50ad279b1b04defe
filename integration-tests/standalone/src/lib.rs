//! walser-standalone-tests
