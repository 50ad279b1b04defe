//! walser-metastore
