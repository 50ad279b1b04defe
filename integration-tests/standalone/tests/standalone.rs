//! The server as a process, from outside: over gRPC, through the command line, with kills and bad inputs.

#![allow(clippy::unwrap_used, reason = "a test that fails says where")]

#[path = "standalone/bad_input.rs"]
mod bad_input;
#[path = "standalone/cli_cluster.rs"]
mod cli_cluster;
#[path = "standalone/cli_groups.rs"]
mod cli_groups;
#[path = "standalone/cli_habits.rs"]
mod cli_habits;
#[path = "standalone/cli_lossless.rs"]
mod cli_lossless;
#[path = "standalone/cli_terminal.rs"]
mod cli_terminal;
#[path = "standalone/cli_truth.rs"]
mod cli_truth;
#[path = "standalone/cluster_config.rs"]
mod cluster_config;
#[path = "standalone/cluster_up.rs"]
mod cluster_up;
#[path = "standalone/collector.rs"]
mod collector;
#[path = "standalone/compacted.rs"]
mod compacted;
#[path = "standalone/connection_age.rs"]
mod connection_age;
#[cfg(feature = "containers")]
#[path = "standalone/containers.rs"]
mod containers;
#[path = "standalone/contradictions.rs"]
mod contradictions;
#[path = "standalone/controllers.rs"]
mod controllers;
#[path = "standalone/cut_off.rs"]
mod cut_off;
#[path = "standalone/decoded_cost.rs"]
mod decoded_cost;
#[path = "standalone/deregistration.rs"]
mod deregistration;
#[path = "standalone/doctor.rs"]
mod doctor;
#[path = "standalone/elections.rs"]
mod elections;
#[path = "standalone/etcd.rs"]
mod etcd;
#[path = "standalone/fault_rows.rs"]
mod fault_rows;
#[path = "standalone/faults.rs"]
mod faults;
#[path = "standalone/generated_client.rs"]
mod generated_client;
#[path = "standalone/group_admin.rs"]
mod group_admin;
#[path = "standalone/group_clients.rs"]
mod group_clients;
#[path = "standalone/group_consume.rs"]
mod group_consume;
#[path = "standalone/group_load.rs"]
mod group_load;
#[path = "standalone/group_member.rs"]
mod group_member;
#[path = "standalone/group_polls.rs"]
mod group_polls;
#[path = "standalone/group_rows.rs"]
mod group_rows;
#[path = "standalone/group_tokens.rs"]
mod group_tokens;
#[path = "standalone/group_ways.rs"]
mod group_ways;
#[path = "standalone/groups.rs"]
mod groups;
#[path = "standalone/hung_disk.rs"]
mod hung_disk;
#[path = "standalone/hurt_copies.rs"]
mod hurt_copies;
#[path = "standalone/inspect.rs"]
mod inspect;
#[path = "standalone/kill.rs"]
mod kill;
#[path = "standalone/lag.rs"]
mod lag;
#[path = "standalone/load.rs"]
mod load;
#[path = "standalone/logs.rs"]
mod logs;
#[path = "standalone/many.rs"]
mod many;
#[path = "standalone/metadata_loss.rs"]
mod metadata_loss;
#[path = "standalone/metrics.rs"]
mod metrics;
#[path = "standalone/node_ids.rs"]
mod node_ids;
#[path = "standalone/old_data.rs"]
mod old_data;
#[path = "standalone/operability.rs"]
mod operability;
#[path = "standalone/otlp.rs"]
mod otlp;
#[path = "standalone/out_of_reach.rs"]
mod out_of_reach;
#[path = "standalone/page_cache.rs"]
mod page_cache;
#[path = "standalone/partial.rs"]
mod partial;
#[path = "standalone/processes.rs"]
mod processes;
#[path = "standalone/producers.rs"]
mod producers;
#[path = "standalone/readers.rs"]
mod readers;
#[path = "standalone/readiness.rs"]
mod readiness;
#[path = "standalone/readme.rs"]
mod readme;
#[path = "standalone/replica_errors.rs"]
mod replica_errors;
#[path = "standalone/replicated.rs"]
mod replicated;
#[path = "standalone/rolling.rs"]
mod rolling;
#[path = "standalone/round_trip.rs"]
mod round_trip;
#[path = "standalone/runbook.rs"]
mod runbook;
#[path = "standalone/semantics.rs"]
mod semantics;
#[path = "standalone/server.rs"]
mod server;
#[path = "standalone/stalled_readers.rs"]
mod stalled_readers;
#[path = "standalone/stops.rs"]
mod stops;
#[path = "standalone/tls.rs"]
mod tls;
#[path = "standalone/traces.rs"]
mod traces;
#[path = "standalone/unchecked.rs"]
mod unchecked;
#[cfg(feature = "before")]
#[path = "standalone/upgrades.rs"]
mod upgrades;
#[path = "standalone/wire.rs"]
mod wire;
