//! walser-log
