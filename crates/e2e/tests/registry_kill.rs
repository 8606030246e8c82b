//! Killed at random moments under parallel pushes, the registry loses nothing that it has
//! acknowledged, serves nothing partial, and lets uploads go on where they were.
//!
//! `CORAL_KILL_ROUNDS` is the number of rounds (20), `CORAL_KILL_SEED` repeats a run.

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
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use e2e::{report, scratch};
use ledger::Ledger;
use pusher::{Pusher, Role};
use seed::Seed;
use server::Server;

const ROUNDS: u32 = 20;
/// Rounds in which an upload must have been open when the registry was killed, in percent.
const WITH_UPLOADS: u32 = 80;
/// The moment of the kill, in steps of all pushers together.
const STEPS: std::ops::Range<u64> = 20..400;
const PATIENCE: Duration = Duration::from_mins(1);

fn from_environment<T: std::str::FromStr>(name: &str) -> Option<T> {
    std::env::var(name).ok()?.parse().ok()
}

#[test]
#[ignore = "needs the release binary and minutes; run by cargo xtask test"]
fn a_killed_registry_loses_nothing_that_it_acknowledged() {
    let rounds = from_environment("CORAL_KILL_ROUNDS").unwrap_or(ROUNDS);
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let now = now.map_or(1, |now| u64::from(now.subsec_nanos()));
    let mut seed = Seed::new(from_environment("CORAL_KILL_SEED").unwrap_or(now));
    let shown = format!("CORAL_KILL_SEED={}", seed.shown());
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
    let shared = Arc::new(Mutex::new(ledger));
    let (step, steps) = channel();
    let threads: Vec<_> = Role::ALL
        .iter()
        .enumerate()
        .map(|(number, role)| {
            let mut pusher = Pusher {
                address: registry.address.clone(),
                name: format!("r{}/p{number}", round % 4),
                ledger: Arc::clone(&shared),
                seed: Seed::new(seed.next()),
                step: step.clone(),
            };
            let role = *role;
            thread::spawn(move || pusher.work(role))
        })
        .collect();
    drop(step);
    await_steps(&steps, seed.within(STEPS));
    registry.process.signal("KILL");
    registry.process.wait(PATIENCE);
    for thread in threads {
        thread.join().expect("pushers only end with the registry");
    }
    let shared = Arc::into_inner(shared).expect("all pushers have ended");
    shared.into_inner().expect("no pusher panicked")
}

fn await_steps(steps: &Receiver<()>, count: u64) {
    for _ in 0..count {
        let step = steps.recv_timeout(PATIENCE);
        step.expect("the registry answers while it is not killed");
    }
}
