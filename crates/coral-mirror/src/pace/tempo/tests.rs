//! The tempo against simulated registries: a clock, a limit, and some milliseconds of latency.

use super::*;

/// How the registry limits.
#[derive(Clone, Copy)]
enum Limit {
    /// A bucket of one second's requests, refilled continuously.
    Bucket,
    /// A fixed number in each second of the clock.
    Window,
}

/// What a refusal reports.
#[derive(Clone, Copy, Debug)]
enum Says {
    Nothing,
    Seconds(u64),
}

/// The result of a simulation.
struct Outcome {
    refused: u32,
    /// Share of the allowed rate that was used.
    used: f64,
}

const LATENCY: Duration = Duration::from_millis(3);
const STEP: Duration = Duration::from_millis(1);

/// Sends requests to a registry that allows `rate` a second until `wanted` were answered.
fn simulate(limit: Limit, says: Says, rate: f64, wanted: u32) -> Outcome {
    let begin = Instant::now();
    let (mut now, mut tempo) = (begin, Tempo::default());
    let (mut tokens, mut window) = (rate, 0);
    let mut flying: Vec<(Instant, Instant, bool)> = Vec::new();
    let (mut granted, mut refused) = (0, 0);
    while granted < wanted {
        let clock = now.duration_since(begin);
        match limit {
            Limit::Bucket => tokens = (tokens + rate * STEP.as_secs_f64()).min(rate),
            Limit::Window if clock.as_secs() > window => (tokens, window) = (rate, clock.as_secs()),
            Limit::Window => {}
        }
        while tempo.admit(now, Purpose::Copy) == Admission::Now {
            let allowed = tokens >= 1.0;
            tokens -= f64::from(u8::from(allowed));
            flying.push((now, now + LATENCY, allowed));
        }
        let (over, still) = flying.into_iter().partition(|(_, at, _)| *at <= now);
        flying = still;
        for (sent, _, allowed) in over {
            tempo.ended();
            if allowed {
                granted += 1;
                tempo.granted();
            } else {
                refused += 1;
                let wait = match says {
                    Says::Nothing => None,
                    Says::Seconds(seconds) => Some(Duration::from_secs(seconds)),
                };
                tempo.refused(sent, now, wait);
            }
        }
        now += STEP;
        assert!(clock < Duration::from_mins(10), "it hangs");
    }
    let seconds = now.duration_since(begin).as_secs_f64();
    Outcome {
        refused,
        used: f64::from(granted) / (rate * seconds),
    }
}

#[test]
fn a_limited_registry_is_used_to_four_fifths_and_refuses_one_in_fifty() {
    for (rate, wanted) in [(20.0, 1200), (100.0, 6000), (500.0, 30_000)] {
        for (name, limit) in [("bucket", Limit::Bucket), ("window", Limit::Window)] {
            for says in [Says::Nothing, Says::Seconds(1)] {
                let outcome = simulate(limit, says, rate, wanted);
                let told = format!(
                    "{name} of {rate}/s, saying {says:?}: {} refused, {:.2} used",
                    outcome.refused, outcome.used
                );
                assert!(outcome.refused * 50 <= wanted, "{told}");
                assert!(outcome.used >= 0.8, "{told}");
            }
        }
    }
}

#[test]
fn without_refusals_the_window_grows_and_nothing_is_spaced() {
    let now = Instant::now();
    let mut tempo = Tempo::default();
    for _ in 0..5000 {
        assert_eq!(tempo.admit(now, Purpose::Check), Admission::Now);
        tempo.granted();
        tempo.ended();
    }
    let together = (0..100)
        .take_while(|_| tempo.admit(now, Purpose::Check) == Admission::Now)
        .count();
    assert_eq!(together, 32);
    assert_eq!(tempo.admit(now, Purpose::Check), Admission::WhenOneEnds);
}

#[test]
fn what_was_in_flight_together_halves_the_window_once() {
    let now = Instant::now();
    let mut tempo = Tempo::default();
    for _ in 0..6 {
        tempo.admit(now, Purpose::Copy);
    }
    for _ in 0..6 {
        tempo.failed(now, now + LATENCY);
        tempo.ended();
    }
    let later = now + Duration::from_secs(1);
    let together = (0..100)
        .take_while(|_| tempo.admit(later, Purpose::Copy) == Admission::Now)
        .count();
    assert_eq!(together, 3);
}

#[test]
fn a_wait_that_was_asked_for_is_kept() {
    let now = Instant::now();
    let mut tempo = Tempo::default();
    assert_eq!(tempo.admit(now, Purpose::Copy), Admission::Now);
    tempo.ended();
    tempo.refused(now, now, Some(Duration::from_secs(7)));
    let opens = now + Duration::from_secs(7);
    assert_eq!(
        tempo.admit(opens.checked_sub(STEP).unwrap(), Purpose::Copy),
        Admission::At(opens)
    );
    assert_eq!(tempo.admit(opens, Purpose::Copy), Admission::Now);
}

#[test]
fn refusals_without_an_answer_between_them_are_met_with_longer_pauses() {
    let mut now = Instant::now();
    let mut tempo = Tempo::default();
    let mut pauses = vec![];
    for _ in 0..4 {
        assert_eq!(tempo.admit(now, Purpose::Copy), Admission::Now);
        tempo.ended();
        tempo.refused(now, now, None);
        let Admission::At(at) = tempo.admit(now, Purpose::Copy) else {
            panic!("open")
        };
        pauses.push(at.duration_since(now).as_secs());
        now = at;
    }
    assert_eq!(pauses, [1, 2, 4, 8]);
}

#[test]
fn the_end_of_an_allowance_is_kept_for_what_is_missing() {
    let now = Instant::now();
    let renews = now + Duration::from_hours(6);
    let mut tempo = Tempo::default();
    let mut at = |remaining, purpose| {
        tempo.observed(Allowance {
            limit: 100,
            remaining,
            renews,
        });
        let turn = tempo.admit(now, purpose);
        tempo.ended();
        turn
    };
    assert_eq!(at(11, Purpose::Check), Admission::Now);
    assert_eq!(at(10, Purpose::Check), Admission::At(renews));
    assert_eq!(at(1, Purpose::Copy), Admission::Now);
    assert_eq!(at(0, Purpose::Copy), Admission::At(renews));
    assert_eq!(tempo.admit(renews, Purpose::Check), Admission::Now);
}

#[test]
fn what_is_in_flight_counts_against_an_allowance_until_the_registry_says_so() {
    let now = Instant::now();
    let renews = now + Duration::from_mins(1);
    let mut tempo = Tempo::default();
    tempo.observed(Allowance {
        limit: 100,
        remaining: 2,
        renews,
    });
    let turns = [(); 3].map(|()| tempo.admit(now, Purpose::Copy));
    assert_eq!(
        turns,
        [Admission::Now, Admission::Now, Admission::WhenOneEnds]
    );
    tempo.ended();
    tempo.ended();
    // They cost nothing.
    tempo.observed(Allowance {
        limit: 100,
        remaining: 2,
        renews,
    });
    assert_eq!(tempo.admit(now, Purpose::Copy), Admission::Now);
}
