//! Pods under routes and annotations, faults while they start, and what every component reports.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[path = "cluster_pods/annotations.rs"]
mod annotations;
#[path = "cluster_pods/big.rs"]
mod big;
#[path = "cluster_pods/faults.rs"]
mod faults;
#[path = "cluster_pods/operator.rs"]
mod operator;
#[path = "cluster_pods/private.rs"]
mod private;
#[path = "cluster_pods/reports.rs"]
mod reports;
#[path = "cluster_pods/stage.rs"]
mod stage;
#[path = "cluster_pods/statuses.rs"]
mod statuses;
