//! Rounds of killing: how many, from which seed, and pushes from all sides until the kill.

use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::ledger::Ledger;
use crate::pusher::{Pusher, Role};
use crate::seed::Seed;

const ROUNDS: u32 = 20;
/// How long anything may take.
pub(crate) const PATIENCE: Duration = Duration::from_mins(2);

/// What a run goes by; `CORAL_KILL_ROUNDS` and `CORAL_KILL_SEED` say otherwise.
pub(crate) struct Run {
    pub(crate) rounds: u32,
    pub(crate) seed: Seed,
    /// What repeats it.
    pub(crate) shown: String,
}

impl Run {
    pub(crate) fn from_environment() -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let now = now.map_or(1, |now| u64::from(now.subsec_nanos()));
        let seed = Seed::new(variable("CORAL_KILL_SEED").unwrap_or(now));
        let shown = format!("CORAL_KILL_SEED={}", seed.shown());
        Self {
            rounds: variable("CORAL_KILL_ROUNDS").unwrap_or(ROUNDS),
            seed,
            shown,
        }
    }
}

fn variable<T: std::str::FromStr>(name: &str) -> Option<T> {
    std::env::var(name).ok()?.parse().ok()
}

/// What all pushers together do, step by step.
pub(crate) struct Steps(Receiver<()>);

impl Steps {
    /// Waits for so many from now on; those that were taken before do not count.
    pub(crate) fn wait_for(&self, count: u64) {
        while self.0.try_recv().is_ok() {}
        for _ in 0..count {
            let step = self.0.recv_timeout(PATIENCE);
            step.expect("the registry answers while it is not killed");
        }
    }
}

/// Pushes from all sides until `kill` has killed the registry; returns what was acknowledged until
/// then.
pub(crate) fn push_until(
    address: &str,
    ledger: Ledger,
    round: u32,
    seed: &mut Seed,
    kill: impl FnOnce(&Steps, &mut Seed),
) -> Ledger {
    let shared = Arc::new(Mutex::new(ledger));
    let (step, steps) = channel();
    let threads: Vec<_> = Role::ALL
        .iter()
        .enumerate()
        .map(|(number, role)| {
            let mut pusher = Pusher {
                address: address.to_owned(),
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
    kill(&Steps(steps), seed);
    for thread in threads {
        thread.join().expect("pushers only end with the registry");
    }
    let shared = Arc::into_inner(shared).expect("all pushers have ended");
    shared.into_inner().expect("no pusher panicked")
}
