//! walser-rpc
