//! A log as its users see it: appends, reads, restarts, power loss, damage.

#[path = "log/crash.rs"]
mod crash;
#[path = "log/damage.rs"]
mod damage;
#[path = "log/ordinary.rs"]
mod ordinary;
#[path = "log/site.rs"]
mod site;
