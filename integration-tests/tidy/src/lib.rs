//! walser-tidy
