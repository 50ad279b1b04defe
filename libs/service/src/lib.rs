//! walser-service
