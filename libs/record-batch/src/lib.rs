//! walser-record-batch
