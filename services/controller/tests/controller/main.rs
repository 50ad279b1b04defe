//! The controller as its callers and its store see it.

#![allow(clippy::unwrap_used, reason = "a test that fails says where")]

mod contention;
mod cut_off;
mod deregistration;
mod duties;
mod harness;
mod observed_store;
mod store_access;
mod truth;
