//! The alerts and the dashboard of `deploy/monitoring`, compared with what is exported: each alert
//! fires in the state that it is about, and none while all is well.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use coral_mirror::SourceUse;
use serde_json::{Value, json};

use super::{Metrics, Outcome};
use crate::gauges::Gauges;
use crate::gauges::tests::{condition, decided, mirror, text};

/// The alerts on the controller, and those on mirrors, in a cluster or in `coral up`.
const RULES: &str = concat!(
    include_str!("../../../../deploy/monitoring/rules.yaml"),
    include_str!("../../../../deploy/monitoring/mirror-rules.yaml"),
);
const GUIDE: &str = include_str!("../../../../docs/src/guide/monitoring.md");
const DASHBOARD: &str = include_str!("../../../../deploy/monitoring/dashboard.json");

/// A few minutes after the last pass of the mirror that is well.
const NOW: i64 = 1_767_226_000;
const DAY: i64 = 86_400;

type Labels = BTreeMap<String, String>;

/// What is exported at one moment: names, labels and values.
struct Scrape {
    now: i64,
    samples: Vec<(String, Labels, f64)>,
}

impl Scrape {
    fn from_metrics(metrics: &Metrics, now: i64) -> Self {
        let text = text(metrics);
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        let sample = |line: &str| {
            let (series, value) = line.rsplit_once(' ').unwrap();
            let (name, labels) = selector(series);
            (name, labels, value.parse().unwrap())
        };
        Self {
            now,
            samples: lines.map(sample).collect(),
        }
    }

    fn value(&self, name: &str, labels: &Labels) -> Option<f64> {
        let mut samples = self.samples.iter();
        let found = samples.find(|(other, with, _)| other == name && with == labels);
        found.map(|(_, _, value)| *value)
    }
}

/// `NAME{label="value",…}`.
fn selector(text: &str) -> (String, Labels) {
    let Some((name, labels)) = text.split_once('{') else {
        return (text.to_owned(), Labels::new());
    };
    let labels = labels.trim_end_matches('}').split(',');
    let labels = labels.map(|label| {
        let (name, value) = label.split_once('=').unwrap();
        (name.to_owned(), value.trim_matches('"').to_owned())
    });
    (name.to_owned(), labels.collect())
}

/// What an expression compares.
enum Measure {
    Value,
    /// `time() - METRIC`.
    Age,
    /// `increase(METRIC[15m])`: between two scrapes.
    Increase,
}

fn measure(text: &str) -> (Measure, &str) {
    let inner = |prefix, suffix| text.strip_prefix(prefix)?.strip_suffix(suffix);
    if let Some(metric) = text.strip_prefix("time() - ") {
        (Measure::Age, metric)
    } else if let Some(metric) = inner("increase(", "[15m])") {
        (Measure::Increase, metric)
    } else {
        (Measure::Value, text)
    }
}

/// Whether an expression of the form `MEASURE COMPARISON NUMBER` has a result, or `absent` of one.
fn has_result(expression: &str, before: &Scrape, now: &Scrape) -> bool {
    let inner = expression.strip_prefix("absent(");
    if let Some(inner) = inner.and_then(|it| it.strip_suffix(')')) {
        return !has_result(inner, before, now);
    }
    let words: Vec<&str> = expression.rsplitn(3, ' ').collect();
    let [bound, comparison, measured] = words[..] else {
        panic!("{expression}");
    };
    let bound: f64 = bound.parse().unwrap();
    let (measure, metric) = measure(measured);
    let (name, labels) = selector(metric);
    let is_meant = |with: &Labels| labels.iter().all(|(l, value)| with.get(l) == Some(value));
    let series = now.samples.iter();
    let series = series.filter(|(other, with, _)| *other == name && is_meant(with));
    #[expect(clippy::cast_precision_loss, reason = "seconds since 1970 are exact")]
    let time = now.now as f64;
    let mut values = series.map(|(name, with, value)| match measure {
        Measure::Age => time - value,
        // In a series that is new there is none.
        Measure::Increase => value - before.value(name, with).unwrap_or(*value),
        Measure::Value => *value,
    });
    values.any(|value| match comparison {
        ">" => value > bound,
        "<" => value < bound,
        "==" => (value - bound).abs() < f64::EPSILON,
        other => panic!("{other} in {expression}"),
    })
}

/// The alerts of the rule file, with their expressions.
fn alerts() -> BTreeMap<&'static str, &'static str> {
    let lines: Vec<&str> = RULES.lines().map(str::trim).collect();
    let alerts = lines.windows(2).filter_map(|pair| {
        let name = pair[0].strip_prefix("- alert: ")?;
        let expression = pair[1].strip_prefix("expr: ");
        Some((name, expression.expect("an expression follows")))
    });
    alerts.collect()
}

/// What the objects say, and what is counted.
struct State {
    metrics: Metrics,
    shown: Gauges,
}

fn well() -> Value {
    json!({"desired": 6, "mirrored": 6, "pending": 0, "failed": 0, "sourceGone": 0,
        "lastSync": "2026-01-01T00:00:10Z", "nextSync": "2026-01-01T01:00:10Z",
        "pruning": {"paused": false}, "conditions": [condition("True")]})
}

fn node(ready: &str) -> Value {
    json!({"observedGeneration": 2, "conditions": [condition(ready)]})
}

fn objects(status: &Value, registry: &str, node_is_ready: &str) -> Gauges {
    decided(vec![mirror(status)], &[registry], &[node(node_is_ready)])
}

impl State {
    /// All is well.
    fn well() -> Self {
        let mut state = Self {
            metrics: Metrics::default(),
            shown: Gauges::default(),
        };
        state.metrics.set_leading(true);
        state.passes(Outcome::Ok, 1);
        state.show(&objects(&well(), "True", "True"));
        state.metrics.mirrors().attempt_failed("a/m");
        let built = json!({"durations": {"fetch": "1s", "build": "1m", "push": "2s"}});
        let built = serde_json::from_value(built).unwrap();
        state.metrics.built(&built);
        state.asks(0, 100);
        state
    }

    fn show(&mut self, now: &Gauges) {
        self.metrics.show(&self.shown, now);
        self.shown = now.clone();
    }

    /// The status of the mirror differs in this field.
    fn differs(&mut self, field: &str, value: Value) {
        let mut status = well();
        status[field] = value;
        self.show(&objects(&status, "True", "True"));
    }

    /// A source has refused so many requests, and takes so many more.
    fn asks(&self, refused: u64, left: u64) {
        self.metrics.mirrors().sources().follow(move || {
            vec![SourceUse {
                host: "docker.io".to_owned(),
                requests: 1000,
                refused,
                repeated: refused,
                left: Some(left),
            }]
        });
    }

    fn passes(&self, outcome: Outcome, count: usize) {
        for _ in 0..count {
            self.metrics.passed("mirror", outcome, Duration::ZERO);
        }
    }
}

/// Makes something wrong, and says how much time passes.
type Fault = fn(&mut State) -> i64;

/// What is wrong, by alert.
const FAULTS: [(&str, Fault); 16] = [
    ("CoralMirrorStale", |_| 2 * DAY),
    ("CoralMirrorPassOverdue", |_| 3 * 3600),
    ("CoralMirrorNotReady", |state| {
        state.differs("conditions", json!([condition("False")]));
        0
    }),
    ("CoralMirrorFailing", |state| {
        state.differs("failed", json!(1));
        0
    }),
    ("CoralMirrorWaitsForRoom", |state| {
        state.differs("waiting", json!(3));
        0
    }),
    ("CoralMirrorAttemptsFail", |state| {
        (0..60).for_each(|_| state.metrics.mirrors().attempt_failed("a/m"));
        0
    }),
    ("CoralMirrorSourceGone", |state| {
        state.differs("sourceGone", json!(1));
        0
    }),
    ("CoralMirrorPrunePaused", |state| {
        state.differs("pruning", json!({"paused": true}));
        0
    }),
    ("CoralSourceRefuses", |state| {
        state.asks(21, 100);
        0
    }),
    ("CoralSourceQuotaLow", |state| {
        state.asks(0, 9);
        0
    }),
    ("CoralRegistryNotReady", |state| {
        state.show(&objects(&well(), "False", "True"));
        0
    }),
    ("CoralNodesBehind", |state| {
        state.show(&objects(&well(), "True", "False"));
        0
    }),
    ("CoralObjectsWithoutGauges", |state| {
        state.show(&Gauges {
            omitted: 1,
            ..state.shown.clone()
        });
        0
    }),
    ("CoralControllerPassesFail", |state| {
        state.passes(Outcome::Error, 21);
        0
    }),
    ("CoralControllerPanics", |state| {
        state.passes(Outcome::Panic, 1);
        0
    }),
    ("CoralNoLeader", |state| {
        state.metrics.set_leading(false);
        0
    }),
];

#[test]
fn each_alert_fires_in_the_state_that_it_is_about_and_none_while_all_is_well() {
    let (alerts, faults) = (alerts(), BTreeMap::from(FAULTS));
    let named: Vec<&str> = alerts.keys().copied().collect();
    assert_eq!(named, faults.keys().copied().collect::<Vec<_>>());
    for (alert, expression) in alerts {
        let mut state = State::well();
        let before = Scrape::from_metrics(&state.metrics, NOW);
        let is_quiet = !has_result(expression, &before, &before);
        assert!(is_quiet, "{alert} fires while all is well: {expression}");
        let later = faults[alert](&mut state);
        let now = Scrape::from_metrics(&state.metrics, NOW + later);
        let fires = has_result(expression, &before, &now);
        assert!(fires, "{alert} does not fire: {expression}");
    }
}

#[test]
fn a_mirror_that_is_suspended_has_no_alert() {
    let mut state = State::well();
    let mut status = well();
    status["conditions"] = json!([condition("False")]);
    status["nextSync"] = Value::Null;
    let mut suspended = mirror(&status);
    suspended.spec.suspend = true;
    state.show(&decided(vec![suspended], &["True"], &[node("True")]));
    let later = Scrape::from_metrics(&state.metrics, NOW + 2 * DAY);
    let alerts = alerts().into_iter();
    let fire = alerts.filter(|(_, expression)| has_result(expression, &later, &later));
    assert_eq!(fire.collect::<Vec<_>>(), []);
    // Once it goes on, the time since the last success counts.
    state.show(&objects(&well(), "True", "True"));
    let shown = text(&state.metrics);
    assert!(shown.contains("coral_mirror_last_success"), "{shown}");
}

#[test]
fn an_installation_of_which_nothing_runs_has_an_alert() {
    let nothing = Scrape {
        now: NOW,
        samples: Vec::new(),
    };
    let alerts = alerts().into_iter();
    let fire = alerts.filter(|(_, expression)| has_result(expression, &nothing, &nothing));
    let named: Vec<&str> = fire.map(|(name, _)| name).collect();
    assert_eq!(named, ["CoralNoLeader"]);
}

/// The names of all metrics, those of histograms with this end.
fn exported(of_histograms: &str) -> BTreeSet<String> {
    let shown = text(&State::well().metrics);
    let types = shown
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE "));
    types
        .map(|line| match line.split_once(' ').unwrap() {
            (name, "counter") => format!("{name}_total"),
            (name, "histogram") => format!("{name}{of_histograms}"),
            (name, _) => name.to_owned(),
        })
        .collect()
}

#[test]
fn the_guide_explains_every_metric_of_the_controller_and_no_other() {
    let (_, section) = GUIDE.split_once("## What the controller exports").unwrap();
    let (section, _) = section.split_once("\n## ").unwrap();
    let rows = section.lines().filter(|line| line.starts_with("| `coral_"));
    let cells = rows.filter_map(|row| row.split('|').nth(1));
    let names = cells.flat_map(|cell| cell.split('`').skip(1).step_by(2));
    let explained = names.map(|name| name.split('{').next().unwrap().to_owned());
    assert_eq!(explained.collect::<BTreeSet<_>>(), exported(""));
}

#[test]
fn the_dashboard_asks_for_nothing_that_is_not_exported() {
    let exported = exported("_bucket");
    let board: Value = serde_json::from_str(DASHBOARD).unwrap();
    let panels = board["panels"].as_array().unwrap().iter();
    let targets = panels.flat_map(|panel| panel["targets"].as_array().unwrap());
    let mut asked = BTreeSet::new();
    for target in targets {
        let expression = target["expr"].as_str().unwrap();
        let words = expression.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        asked.extend(words.filter(|w| w.starts_with("coral_")).map(str::to_owned));
    }
    let unknown: Vec<&String> = asked.difference(&exported).collect();
    assert!(asked.len() > 15 && unknown.is_empty(), "{unknown:?}");
}
