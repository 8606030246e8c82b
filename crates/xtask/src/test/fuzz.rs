//! The fuzz targets: one instrumented build for all, then each for a while, on a corpus that is
//! seeded from test vectors and grows in the cache.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::Tier;
use crate::command::{StageReport, cargo, program, run};
use crate::workspace::Workspace;

/// How many run at a time.
const AT_ONCE: usize = 2;
const QUICK: Duration = Duration::from_secs(10);
/// For all of them together.
const LONG: Duration = Duration::from_hours(1);
/// Longest input; what goes wrong with longer ones goes wrong with these.
const MAX_LENGTH: usize = 4096;
/// What a tar consists of, in bytes.
const BLOCK: usize = 512;
/// Lines of a failed run that are repeated.
const SHOWN: usize = 40;

/// The stage `fuzz`.
pub(crate) fn fuzz(workspace: &Workspace, tier: Tier) -> Result<StageReport> {
    build(workspace)?;
    let targets = targets(workspace)?;
    for target in &targets {
        seed(workspace, target)?;
    }
    let each = match tier {
        Tier::Quick => QUICK,
        Tier::Long => LONG / u32::try_from(targets.len().max(1))?,
    };
    let waiting = Mutex::new(targets.into_iter());
    let outcomes = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while let Some(target) = next(&waiting) {
                    let outcome = run_target(workspace, &target, each);
                    lock(&outcomes).push(outcome);
                }
            });
        }
    });
    let outcomes = outcomes.into_inner().unwrap_or_default();
    let mut said = StageReport::default();
    for outcome in outcomes {
        let report = outcome?;
        println!("{report}");
        said.reports.push(report);
        said.tests.passed += 1;
    }
    said.reports.sort();
    Ok(said)
}

fn next(waiting: &Mutex<std::vec::IntoIter<String>>) -> Option<String> {
    lock(waiting).next()
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// One build, with the address sanitizer and counters at every branch. What that takes of the
/// compiler is not stable, but the pinned one has it.
fn build(workspace: &Workspace) -> Result<()> {
    let manifest = workspace.root.join("fuzz/Cargo.toml");
    let mut locked = cargo(
        workspace,
        &["metadata", "--locked", "--format-version", "1"],
    )?;
    let locked = locked.arg("--manifest-path").arg(&manifest).output()?;
    if !locked.status.success() {
        bail!(
            "fuzz/Cargo.lock does not fit the crates: run `cargo update --workspace \
             --manifest-path fuzz/Cargo.toml` ({})",
            String::from_utf8_lossy(&locked.stderr).trim()
        );
    }
    let mut build = program(workspace, "cargo-fuzz")?;
    build.args(["fuzz", "build", "--fuzz-dir", "fuzz", "--target-dir"]);
    build.arg(folder(workspace).join("target"));
    build
        .env("RUSTC_BOOTSTRAP", "1")
        .env_remove("CARGO_TARGET_DIR");
    run(&mut build)?;
    Ok(())
}

fn folder(workspace: &Workspace) -> PathBuf {
    workspace.cache.join("fuzz")
}

fn corpus(workspace: &Workspace, target: &str) -> PathBuf {
    folder(workspace).join("corpus").join(target)
}

/// The files of `fuzz/targets`.
fn targets(workspace: &Workspace) -> Result<Vec<String>> {
    let folder = workspace.root.join("fuzz/targets");
    let mut names = Vec::new();
    for entry in fs::read_dir(&folder).with_context(|| format!("no {}", folder.display()))? {
        let path = entry?.path();
        names.extend(
            path.file_stem()
                .map(|name| name.to_string_lossy().into_owned()),
        );
    }
    names.sort();
    Ok(names)
}

/// Puts the seeds of a target beside what earlier runs have found.
fn seed(workspace: &Workspace, target: &str) -> Result<()> {
    let corpus = corpus(workspace, target);
    fs::create_dir_all(&corpus).with_context(|| format!("cannot make {}", corpus.display()))?;
    for (number, seed) in seeds(workspace, target)?.iter().enumerate() {
        let bytes = [prefix(target), seed.as_bytes()].concat();
        fs::write(corpus.join(format!("seed-{number}")), bytes)?;
    }
    Ok(())
}

/// What a target reads in front of the text: a size, a time, a line with a type.
fn prefix(target: &str) -> &'static [u8] {
    match target {
        "range" => &[100, 0],
        "retry_after" => &[0, 0x94, 0x35, 0x77, 0, 0, 0, 0],
        "manifest" => b"\n",
        _ => b"",
    }
}

/// The lines of `fuzz/seeds/TARGET.txt`, and what the tests of the crates go by.
fn seeds(workspace: &Workspace, target: &str) -> Result<Vec<String>> {
    let own = workspace.root.join(format!("fuzz/seeds/{target}.txt"));
    let own = fs::read_to_string(own).unwrap_or_default();
    let mut seeds: Vec<String> = own.lines().map(str::to_owned).collect();
    match target {
        "reference" | "digest" | "route" => seeds.extend(vectors(&workspace.root)?),
        "documents" => seeds.extend(examples(&workspace.root)?),
        "archive" => seeds = seeds.iter().map(|line| tar(line)).collect(),
        _ => {}
    }
    Ok(seeds)
}

/// A tar as a line has it: members with `|` between them, each a type, a name and a content. The
/// target itself sets the sums of the heads.
fn tar(line: &str) -> String {
    let mut tar = String::new();
    for member in line.split(" | ") {
        let mut parts = member.splitn(3, ' ');
        let mut part = || parts.next().unwrap_or_default();
        let (kind, name, content) = (part(), part(), part());
        let content = match kind {
            // A record of PAX is a line.
            "x" => format!("{content}\n"),
            _ => content.to_owned(),
        };
        let (size, time, none) = (content.len(), 0, "");
        let head = format!(
            "{name:\0<100}0000644\x000000000\x000000000\x00{size:011o}\x00{time:011o}\x00{none:8}{kind}\
             {none:\0<100}ustar\x0000"
        );
        let blocks = content.len().div_ceil(BLOCK) * BLOCK;
        let _ = write!(tar, "{head:\0<BLOCK$}{content:\0<blocks$}");
    }
    tar + &"\0".repeat(2 * BLOCK)
}

/// Every text of the test vectors of references.
fn vectors(root: &Path) -> Result<Vec<String>> {
    let path = root.join("crates/coral-image/testdata/vectors.json");
    let vectors: Value = serde_json::from_str(&fs::read_to_string(path)?)?;
    let mut found = Vec::new();
    collect(&vectors, &mut found);
    found.sort();
    found.dedup();
    Ok(found)
}

fn collect(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::String(text) => found.push(text.clone()),
        Value::Array(values) => values.iter().for_each(|value| collect(value, found)),
        Value::Object(fields) => fields.values().for_each(|value| collect(value, found)),
        _ => {}
    }
}

fn examples(root: &Path) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for folder in ["examples", "examples/quickstart"] {
        for entry in fs::read_dir(root.join(folder))? {
            let path = entry?.path();
            if path
                .extension()
                .is_some_and(|extension| extension == "yaml")
            {
                found.push(fs::read_to_string(path)?);
            }
        }
    }
    Ok(found)
}

/// Runs one target; returns the line of the table.
fn run_target(workspace: &Workspace, target: &str, time: Duration) -> Result<String> {
    let triple = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let built = folder(workspace)
        .join("target")
        .join(triple)
        .join("release");
    let artifacts = workspace.root.join("fuzz/artifacts").join(target);
    fs::create_dir_all(&artifacts)?;
    let mut command = Command::new(built.join(target));
    command
        .arg(corpus(workspace, target))
        .arg(format!("-max_total_time={}", time.as_secs()))
        .arg(format!("-max_len={MAX_LENGTH}"))
        .arg(format!("-artifact_prefix={}/", artifacts.display()))
        .args(["-timeout=10", "-rss_limit_mb=2048", "-print_final_stats=1"]);
    let output = command
        .output()
        .with_context(|| format!("cannot start {target}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        let lines: Vec<&str> = said.lines().collect();
        println!("{}", lines[lines.len().saturating_sub(SHOWN)..].join("\n"));
        bail!(
            "fuzzing of {target} ended with {}; the input is in {}",
            output.status,
            artifacts.display()
        );
    }
    let runs = executed(&said).context("the fuzzer says how many inputs it ran")?;
    Ok(format!(
        "fuzz {target}: {runs} inputs in {} s, 0 failures",
        time.as_secs()
    ))
}

/// `stat::number_of_executed_units: 28654`
fn executed(said: &str) -> Option<u64> {
    let mut lines = said.lines();
    let line = lines.find_map(|line| line.strip_prefix("stat::number_of_executed_units:"))?;
    line.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_target_has_seeds() {
        let workspace = Workspace::find().unwrap();
        for target in targets(&workspace).unwrap() {
            assert!(!seeds(&workspace, &target).unwrap().is_empty(), "{target}");
        }
    }

    #[test]
    fn the_seed_of_a_tar_has_its_fields_where_they_belong() {
        let tar = tar("5 blobs | x pax 21 path=blobs/sha256 | 0 short text");
        assert_eq!(tar.len(), (1 + 2 + 2 + 2) * BLOCK);
        let (head, content) = (&tar[BLOCK..2 * BLOCK], &tar[2 * BLOCK..3 * BLOCK]);
        assert_eq!((&head[..4], &head[156..157]), ("pax\0", "x"));
        assert_eq!(
            (&head[124..136], &head[257..265]),
            ("00000000025\x00", "ustar\x0000")
        );
        assert_eq!(content.trim_end_matches('\0'), "21 path=blobs/sha256\n");
    }

    #[test]
    fn the_fuzzers_count_is_read() {
        let said = "Done 5 runs\nstat::number_of_executed_units: 28654\nstat::peak_rss_mb: 50\n";
        assert_eq!(executed(said), Some(28_654));
        assert_eq!(executed("Done"), None);
    }
}
