//! walser-gateway
