//! Stages of a run: in order, each timed, a table at the end, a budget over all.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::command::Said;
use crate::workspace::Workspace;

/// The work of a stage.
pub(crate) type Work = Box<dyn Fn(&Workspace) -> Result<Said>>;

/// One step of the run.
pub(crate) struct Stage {
    pub(crate) name: String,
    /// Names of stages that must have passed before.
    pub(crate) needs: &'static [&'static str],
    pub(crate) work: Work,
}

impl Stage {
    pub(crate) fn new(
        name: impl Into<String>,
        needs: &'static [&'static str],
        work: impl Fn(&Workspace) -> Result<Said> + 'static,
    ) -> Self {
        Self {
            name: name.into(),
            needs,
            work: Box::new(work),
        }
    }
}

/// How one stage ended.
struct Row {
    name: String,
    took: Duration,
    outcome: Result<Said, String>,
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

/// Runs all stages, also after a failure (but not those that need the failed one), and says how
/// each ended.
pub(crate) fn run_all(workspace: &Workspace, stages: Vec<Stage>, budget: Budget) -> Result<()> {
    let started = Instant::now();
    let mut rows: Vec<Row> = Vec::new();
    for stage in stages {
        println!("\n==> {}", stage.name);
        let began = Instant::now();
        let outcome = attempt(workspace, &stage, &rows);
        if let Err(error) = &outcome {
            println!("{} failed: {error}", stage.name);
        }
        rows.push(Row {
            name: stage.name,
            took: began.elapsed(),
            outcome,
        });
    }
    let took = started.elapsed();
    if took > budget.limit {
        let outcome = Err(over_budget(took, budget));
        rows.push(Row {
            name: "budget".to_owned(),
            took,
            outcome,
        });
    }
    conclude(&rows, took, budget)
}

fn attempt(workspace: &Workspace, stage: &Stage, before: &[Row]) -> Result<Said, String> {
    let failed = before
        .iter()
        .find(|row| stage.needs.contains(&&*row.name) && row.outcome.is_err());
    if let Some(row) = failed {
        return Err(format!("not run, since {} failed", row.name));
    }
    (stage.work)(workspace).map_err(|error| format!("{error:#}"))
}

fn over_budget(took: Duration, budget: Budget) -> String {
    format!(
        "took {} where a {} run may take {}: cut counts down or make a stage quicker",
        clock(took),
        budget.kind,
        clock(budget.limit)
    )
}

fn conclude(rows: &[Row], took: Duration, budget: Budget) -> Result<()> {
    println!();
    for row in rows {
        println!("{:<24} {:>8}  {}", row.name, clock(row.took), verdict(row));
        for report in row.outcome.iter().flat_map(|said| &said.reports) {
            println!("{:<24} {:>8}    {report}", "", "");
        }
    }
    let pending: Vec<&String> = rows
        .iter()
        .filter_map(|row| row.outcome.as_ref().ok())
        .flat_map(|s| &s.pending)
        .collect();
    for reason in &pending {
        println!("pending: {reason}");
    }
    let failed = rows.iter().filter(|row| row.outcome.is_err()).count();
    println!(
        "\n{} of {} for a {} run",
        clock(took),
        clock(budget.limit),
        budget.kind
    );
    println!("tests pending: {}", pending.len());
    println!("stages: {} passed, {failed} failed", rows.len() - failed);
    if failed > 0 {
        bail!("{failed} of {} stages failed", rows.len());
    }
    Ok(())
}

fn verdict(row: &Row) -> String {
    match &row.outcome {
        Err(error) => format!("FAILED: {}", error.lines().next().unwrap_or_default()),
        Ok(said) if said.tests.passed + said.pending.len() > 0 => format!(
            "passed: {} tests, {} pending, {} left for other stages",
            said.tests.passed - said.pending.len().min(said.tests.passed),
            said.pending.len(),
            said.tests.ignored
        ),
        Ok(_) => "passed".to_owned(),
    }
}

/// Minutes and seconds, `3m07s`; below ten seconds with a tenth, `4.2s`.
fn clock(took: Duration) -> String {
    let seconds = took.as_secs();
    match seconds {
        0..10 => format!("{:.1}s", took.as_secs_f64()),
        10..60 => format!("{seconds}s"),
        _ => format!("{}m{:02}s", seconds / 60, seconds % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(name: &str, needs: &'static [&'static str]) -> Stage {
        Stage::new(name, needs, |_| Ok(Said::default()))
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
    fn times_are_short_to_read() {
        assert_eq!(clock(Duration::from_millis(4210)), "4.2s");
        assert_eq!(clock(Duration::from_secs(42)), "42s");
        assert_eq!(clock(Duration::from_secs(187)), "3m07s");
    }
}
