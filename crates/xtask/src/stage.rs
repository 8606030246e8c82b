//! Stages of a run: in order, each timed, a budget over all.

mod outcome;
mod page;

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::command::{StageReport, labelled, say};
use crate::workspace::Workspace;
pub(crate) use outcome::{Outcome, Row};
pub(crate) use page::renewed;

/// How many stages of [`Stage::side_by_side`] run at a time: they wait more than they compute.
const LANES: usize = 2;

/// The work of a stage.
pub(crate) type Work = Box<dyn Fn(&Workspace) -> Result<StageReport> + Send + Sync>;

/// One step of the run.
pub(crate) struct Stage {
    pub(crate) name: String,
    /// Names of stages that must have passed before.
    pub(crate) needs: &'static [&'static str],
    pub(crate) work: Work,
    /// Whether it may run beside its neighbours of the same kind.
    pub(crate) is_side_by_side: bool,
}

impl Stage {
    pub(crate) fn new(
        name: impl Into<String>,
        needs: &'static [&'static str],
        work: impl Fn(&Workspace) -> Result<StageReport> + Send + Sync + 'static,
    ) -> Self {
        Self {
            name: name.into(),
            needs,
            work: Box::new(work),
            is_side_by_side: false,
        }
    }

    /// A stage that shares nothing with its neighbours of this kind but the machine.
    pub(crate) fn side_by_side(self) -> Self {
        Self {
            is_side_by_side: true,
            ..self
        }
    }
}

/// How long the whole run may take.
#[derive(Clone, Copy)]
pub(crate) struct Budget {
    /// What the run began with, for the message: `warm` or `cold`.
    pub(crate) kind: &'static str,
    pub(crate) limit: Duration,
}

/// Keeps the stages named by `only` and those that they need; all of them if `only` is empty.
pub(crate) fn choose(stages: Vec<Stage>, only: &[String]) -> Result<Vec<Stage>> {
    if only.is_empty() {
        return Ok(stages);
    }
    let mut wanted: BTreeSet<String> = BTreeSet::new();
    for name in only {
        let matched = stages.iter().filter(|stage| is_named(&stage.name, name));
        let names: Vec<String> = matched.map(|stage| stage.name.clone()).collect();
        if names.is_empty() {
            let known: Vec<&str> = stages.iter().map(|stage| stage.name.as_str()).collect();
            bail!(
                "no stage is named `{name}`; the stages are: {}",
                known.join(", ")
            );
        }
        wanted.extend(names);
    }
    for stage in stages.iter().rev() {
        if wanted.contains(&stage.name) {
            wanted.extend(stage.needs.iter().map(|&need| need.to_owned()));
        }
    }
    Ok(stages
        .into_iter()
        .filter(|stage| wanted.contains(&stage.name))
        .collect())
}

/// `e2e` names every stage that begins with `e2e:`.
fn is_named(stage: &str, name: &str) -> bool {
    stage == name
        || stage
            .strip_prefix(name)
            .is_some_and(|rest| rest.starts_with(':'))
}

/// Runs all stages, also after a failure (but not those that need the failed one).
pub(crate) fn run_all(workspace: &Workspace, stages: &[Stage], budget: Budget) -> Outcome {
    let started = Instant::now();
    let mut rows: Vec<Row> = Vec::new();
    for batch in stages.chunk_by(|one, next| one.is_side_by_side && next.is_side_by_side) {
        match batch {
            [stage] => rows.push(run_stage(workspace, stage, &rows)),
            several => {
                let began = Instant::now();
                let together = run_in_lanes(workspace, several, &rows);
                rows.extend(together);
                println!("\n{} stages in {:.0?}", several.len(), began.elapsed());
            }
        }
    }
    Outcome::new(rows, started.elapsed(), budget)
}

/// Runs stages in [`LANES`] threads; each line of their output begins with the stage's name.
fn run_in_lanes(workspace: &Workspace, stages: &[Stage], before: &[Row]) -> Vec<Row> {
    let waiting = Mutex::new(stages.iter().enumerate());
    let ended = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..LANES {
            scope.spawn(|| {
                while let Some((place, stage)) = taken(&waiting) {
                    let row = labelled(&stage.name, || run_stage(workspace, stage, before));
                    ended.lock().expect("no lane panics").push((place, row));
                }
            });
        }
    });
    let mut rows = ended.into_inner().expect("no lane panics");
    rows.sort_by_key(|(place, _)| *place);
    rows.into_iter().map(|(_, row)| row).collect()
}

/// The next item of what several threads take from.
fn taken<T>(waiting: &Mutex<impl Iterator<Item = T>>) -> Option<T> {
    waiting.lock().expect("no lane panics").next()
}

fn run_stage(workspace: &Workspace, stage: &Stage, before: &[Row]) -> Row {
    println!("\n==> {}", stage.name);
    let began = Instant::now();
    let result = attempt(workspace, stage, before);
    if let Err(error) = &result {
        say(&format!("{} failed: {error}", stage.name));
    }
    Row {
        name: stage.name.clone(),
        took: began.elapsed(),
        result,
    }
}

fn attempt(workspace: &Workspace, stage: &Stage, before: &[Row]) -> Result<StageReport, String> {
    let failed = before
        .iter()
        .find(|row| stage.needs.contains(&&*row.name) && row.result.is_err());
    if let Some(row) = failed {
        return Err(format!("not run, since {} failed", row.name));
    }
    (stage.work)(workspace).map_err(|error| format!("{error:#}"))
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Barrier};

    use super::*;

    fn named(name: &str, needs: &'static [&'static str]) -> Stage {
        Stage::new(name, needs, |_| Ok(StageReport::default()))
    }

    fn chosen(only: &[&str]) -> Vec<String> {
        let stages = vec![
            named("tools", &[]),
            named("build", &["tools"]),
            named("unit", &[]),
            named("e2e:mirror", &["build"]),
            named("e2e:peers", &["build"]),
        ];
        let only: Vec<String> = only.iter().map(|&name| name.to_owned()).collect();
        choose(stages, &only)
            .unwrap()
            .into_iter()
            .map(|stage| stage.name)
            .collect()
    }

    #[test]
    fn a_chosen_stage_brings_what_it_needs() {
        assert_eq!(chosen(&["unit"]), ["unit"]);
        assert_eq!(chosen(&["e2e:peers"]), ["tools", "build", "e2e:peers"]);
        assert_eq!(
            chosen(&["e2e"]),
            ["tools", "build", "e2e:mirror", "e2e:peers"]
        );
        assert_eq!(chosen(&[]).len(), 5);
    }

    #[test]
    fn an_unknown_stage_is_refused_with_the_names_of_all() {
        let error = choose(vec![named("unit", &[])], &["units".to_owned()])
            .err()
            .unwrap();
        assert_eq!(
            error.to_string(),
            "no stage is named `units`; the stages are: unit"
        );
    }

    #[test]
    fn neighbours_that_share_nothing_run_side_by_side_and_are_told_in_their_order() {
        let meet = Arc::new(Barrier::new(2));
        let meeting = |name: &str| {
            let meet = Arc::clone(&meet);
            let work = move |_: &Workspace| {
                meet.wait();
                Ok(StageReport::default())
            };
            Stage::new(name, &[], work).side_by_side()
        };
        let stages = [named("unit", &[]), meeting("one"), meeting("two")];
        let workspace = Workspace::find().unwrap();
        let budget = Budget {
            kind: "warm",
            limit: Duration::MAX,
        };
        let outcome = run_all(&workspace, &stages, budget);
        assert_eq!(outcome.failed(), 0);
        let table = outcome.table();
        let names: Vec<&str> = table.lines().take(3).filter_map(first_word).collect();
        assert_eq!(names, ["unit", "one", "two"]);
    }

    fn first_word(line: &str) -> Option<&str> {
        line.split_whitespace().next()
    }
}
