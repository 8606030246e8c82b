//! What Coral does when its surroundings fail: registries that lie, cut, throttle and refuse,
//! ports, folders and disks that cannot be used, and typing errors.

#[path = "faults/cuts.rs"]
mod cuts;
#[path = "faults/destinations.rs"]
mod destinations;
#[path = "faults/identity.rs"]
mod identity;
#[path = "faults/input.rs"]
mod input;
#[path = "faults/leftovers.rs"]
mod leftovers;
#[path = "faults/lies.rs"]
mod lies;
#[path = "faults/mirrors.rs"]
mod mirrors;
#[path = "faults/refusals.rs"]
mod refusals;
#[path = "faults/rig.rs"]
mod rig;
#[path = "faults/storage.rs"]
mod storage;
