//! walser-storage-node
