//! Killed at random moments under parallel pushes, the registry loses nothing that it has
//! acknowledged, serves nothing partial, and lets uploads go on where they were.
//!
//! `CORAL_KILL_ROUNDS` is the number of rounds (20), `CORAL_KILL_SEED` repeats a run.

#[path = "registry/killing.rs"]
mod killing;
#[path = "registry/ledger.rs"]
mod ledger;
#[path = "registry/pusher.rs"]
mod pusher;
#[path = "registry/seed.rs"]
mod seed;
#[path = "registry/server.rs"]
mod server;
#[path = "registry/verify.rs"]
mod verify;
#[path = "registry/wire.rs"]
mod wire;

use std::path::Path;

use e2e::{report, scratch};
use killing::{PATIENCE, Run, push_until};
use ledger::Ledger;
use seed::Seed;
use server::Server;

/// Rounds in which an upload must have been open when the registry was killed, in percent.
const WITH_UPLOADS: u32 = 80;
/// The moment of the kill, in steps of all pushers together.
const STEPS: std::ops::Range<u64> = 20..400;

#[test]
#[ignore = "needs the release binary and minutes; run by cargo xtask test"]
fn a_killed_registry_loses_nothing_that_it_acknowledged() {
    let Run {
        rounds,
        mut seed,
        shown,
    } = Run::from_environment();
    println!("{shown}");
    let folder = scratch();
    let storage = folder.path().join("storage");
    let mut ledger = Ledger::default();
    let mut with_uploads = 0;
    for round in 0..rounds {
        ledger = one_round(&storage, ledger, round, &mut seed);
        with_uploads += u32::from(!ledger.uploads.is_empty());
        let registry = Server::start(&storage);
        verify::everything(&registry.address, &mut ledger, round + 1 == rounds)
            .unwrap_or_else(|fault| panic!("round {round} ({shown}): {fault}"));
    }
    let (blobs, manifests) = (ledger.blobs.len(), ledger.manifests.len());
    report!(
        "kill rounds: {rounds}, with uploads open in {with_uploads}; {blobs} blobs, {manifests} \
         manifests, {} tags, {} uploads resumed; 0 lost",
        ledger.tags.len(),
        ledger.resumed
    );
    assert!(
        with_uploads * 100 >= rounds * WITH_UPLOADS,
        "uploads were open in {with_uploads} of {rounds} rounds only"
    );
    assert!(blobs > 0 && manifests > 0 && ledger.resumed > 0);
}

/// Pushes from all sides, kills, and returns what was acknowledged until then.
fn one_round(storage: &Path, ledger: Ledger, round: u32, seed: &mut Seed) -> Ledger {
    let mut registry = Server::start(storage);
    let address = registry.address.clone();
    push_until(&address, ledger, round, seed, |steps, seed| {
        steps.wait_for(seed.within(STEPS));
        registry.process.signal("KILL");
        registry.process.wait(PATIENCE);
    })
}
