//! walser-testkit
