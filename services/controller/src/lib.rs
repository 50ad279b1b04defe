//! walser-controller
