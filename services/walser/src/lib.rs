//! walser
