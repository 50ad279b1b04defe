//! walser-replication
