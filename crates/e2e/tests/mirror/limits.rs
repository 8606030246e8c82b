//! A source that answers only so many requests a second, and says so in each shape that is in use.

use std::thread;
use std::time::Instant;

use e2e::{FaultServer, coral, report, run, scratch};
use serde_json::{Value, json};

use super::write_yaml;

/// Requests a second, and at most at once.
const RATE: f64 = 40.0;
/// Each costs a source some seven requests.
const IMAGES: u64 = 80;

/// What a mirror made of a limited source.
struct Outcome {
    shape: String,
    granted: usize,
    refused: usize,
    seconds: f64,
}

fn throttled(refusal: &Value, announced: bool) -> Outcome {
    let home = scratch();
    let source = FaultServer::registry(&[]);
    for seed in 0..IMAGES {
        source.load(
            &json!({"path": "a/b", "tag": format!("1.{seed}"), "seed": seed, "layers": [100]}),
        );
    }
    source.fault(&json!({"effect": {"limit": {
        "per_second": RATE, "burst": RATE, "refusal": refusal, "announced": announced,
    }}}));
    let destination = FaultServer::registry(&[]);
    let (host, port) = destination.host().split_once(':').unwrap();
    let yaml = format!(
        "apiVersion: stvz.io/v1\nkind: RegistryMirror\nmetadata:\n  name: limited\nspec:\n  \
         registry:\n    host: {host}\n    port: {port}\n  repositories:\n    - name: {}/a/b\n      \
         select: {{all: true}}\n",
        source.host()
    );
    let yaml = write_yaml(home.path(), &yaml);
    let hosts = format!("{},{}", source.host(), destination.host());
    let mut command = coral();
    command.args(["mirror", "run"]).arg(&yaml);
    command
        .env("CORAL_PLAIN_HTTP", hosts)
        .env("HOME", home.path());
    let began = Instant::now();
    let finished = run(&mut command).succeeded();
    let seconds = began.elapsed().as_secs_f64();
    assert!(
        finished.text().starts_with("80 of 80 images mirrored"),
        "{finished}"
    );
    let statuses = source.statuses();
    let refused = statuses.iter().filter(|s| matches!(s, 429 | 403)).count();
    let granted = statuses.len() - refused;
    Outcome {
        shape: refusal.to_string(),
        granted,
        refused,
        seconds,
    }
}

#[test]
#[ignore = "needs the release binary; run by cargo xtask test"]
fn a_limited_source_is_left_in_peace_whatever_its_shape() {
    let shapes = [
        (json!({"seconds": 1}), false),
        (json!({"date": 1}), false),
        (json!("bare"), false),
        (json!("body"), false),
        (json!({"forbidden": {"retry_after": 1}}), false),
        (json!({"rate_limit": {"limit": 40, "window": 1}}), true),
    ];
    let outcomes = thread::scope(|scope| {
        let all = shapes
            .iter()
            .map(|(shape, announced)| scope.spawn(|| throttled(shape, *announced)));
        let all: Vec<_> = all.collect();
        all.into_iter()
            .map(|one| one.join().unwrap())
            .collect::<Vec<_>>()
    });
    for Outcome {
        shape,
        granted,
        refused,
        seconds,
    } in &outcomes
    {
        #[expect(clippy::cast_precision_loss, reason = "a thousand requests")]
        let used = *granted as f64 / (RATE * seconds);
        let told = format!(
            "{shape}: {granted} answered, {refused} refused, {:.0} % used",
            used * 100.0
        );
        // How much is used is told only: other programs may have the processors. The tests of the
        // pace measure it by their own clock.
        report!("{told}");
        assert!(refused * 50 <= granted + refused, "{told}");
    }
}
