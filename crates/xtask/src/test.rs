//! `cargo xtask test`: every check and test, in stages.

mod book;
mod checks;
mod fuzz;
mod groups;

pub(crate) use checks::build;

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::bench::{self, Pages};
use crate::command::{output, program};
use crate::stage::{Budget, Outcome, Stage, choose, renewed, run_all};
use crate::tools::{self, OnMissing};
use crate::workspace::Workspace;

/// Where the table of a long run goes.
const LONG_RUN: &str = "docs/long-run.md";

#[derive(Args)]
pub(crate) struct TestArguments {
    /// Install what is missing: Debian packages as root, tools into the cache
    #[arg(long)]
    install: bool,
    /// The full counts (100 kill rounds, an hour of fuzzing, a soak of 20 minutes) and the benchmarks; the table goes into docs/long-run.md
    #[arg(long)]
    long: bool,
    /// Run only this stage and what it needs; may be repeated (`e2e` means all that begin so)
    #[arg(long, value_name = "STAGE")]
    only: Vec<String>,
    /// Run the cluster's tests on the cluster of this kubeconfig instead of one of their own
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// What the tests' own clusters are called, before a number; two runs at the same time need two names
    #[arg(long, value_name = "NAME", default_value = "e2e")]
    clusters: String,
    /// Print the names of the stages and stop
    #[arg(long)]
    list: bool,
}

/// How many rounds and minutes the repeating tests take.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tier {
    /// The counts for every change.
    Quick,
    /// The counts for a finished piece of work.
    Long,
}

pub(crate) fn run(workspace: &Workspace, arguments: &TestArguments) -> Result<()> {
    let tier = if arguments.long {
        Tier::Long
    } else {
        Tier::Quick
    };
    let on_missing = if arguments.install {
        OnMissing::Install
    } else {
        OnMissing::List
    };
    let all = stages(workspace, tier, on_missing, arguments)?;
    let order: Vec<String> = all.iter().map(|stage| stage.name.clone()).collect();
    let stages = choose(all, &arguments.only)?;
    if arguments.list {
        for stage in stages {
            println!("{}", stage.name);
        }
        return Ok(());
    }
    let budget = budget(workspace, tier);
    let outcome = run_all(workspace, &stages, budget);
    print!("\n{}", outcome.table());
    if tier == Tier::Long {
        write_page(workspace, &outcome, &order)?;
    }
    if outcome.failed() > 0 {
        bail!("{} stages failed", outcome.failed());
    }
    Ok(())
}

fn write_page(workspace: &Workspace, outcome: &Outcome, order: &[String]) -> Result<()> {
    let mut git = program(workspace, "git")?;
    let commit = output(git.args(["describe", "--always", "--exclude=*", "--dirty"]))?;
    let page = workspace.root.join(LONG_RUN);
    let before = fs::read_to_string(&page).unwrap_or_default();
    let after = renewed(&before, outcome.entries(commit.trim()), order);
    fs::write(&page, after).with_context(|| format!("cannot write {}", page.display()))
}

fn stages(
    workspace: &Workspace,
    tier: Tier,
    on_missing: OnMissing,
    arguments: &TestArguments,
) -> Result<Vec<Stage>> {
    let mut stages = vec![
        Stage::new("tools", &[], move |workspace| {
            tools::check(workspace, on_missing)
        }),
        Stage::new("fmt", &["tools"], checks::format),
        Stage::new("clippy", &["tools"], checks::clippy),
        Stage::new("build", &[], checks::build),
        Stage::new("unit", &[], move |workspace| checks::unit(workspace, tier)),
        Stage::new("doc", &[], checks::doc),
        Stage::new("generate", &["build"], checks::generated),
        Stage::new("book", &["tools"], book::build),
        Stage::new("deny", &["tools"], checks::deny),
        Stage::new("actionlint", &["tools"], checks::actionlint),
    ];
    stages.push(Stage::new("fuzz", &["tools"], move |workspace| {
        fuzz::fuzz(workspace, tier)
    }));
    let kubeconfig = arguments.kubeconfig.as_deref();
    stages.extend(groups::stages(
        workspace,
        tier,
        &arguments.clusters,
        kubeconfig,
    )?);
    if tier == Tier::Long {
        stages.push(Stage::new("bench", &["tools", "build"], |workspace| {
            bench::measure(workspace, Pages::Write)
        }));
    }
    Ok(stages)
}

/// Warm means that a build was there before; `--long` has no budget worth the name but a day's.
fn budget(workspace: &Workspace, tier: Tier) -> Budget {
    let (kind, minutes) = match tier {
        Tier::Long => ("long", 8 * 60),
        Tier::Quick if workspace.coral().is_file() => ("warm", 40),
        Tier::Quick => ("cold", 90),
    };
    Budget {
        kind,
        limit: Duration::from_secs(minutes * 60),
    }
}
