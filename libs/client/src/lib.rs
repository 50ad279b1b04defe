//! walser-client
