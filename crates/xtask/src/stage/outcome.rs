//! How a run went: the table at its end, on the terminal and as a page.

use std::fmt::Write as _;
use std::time::Duration;

use super::Budget;
use super::page::Entry;
use crate::command::StageReport;

/// How one stage ended.
pub(crate) struct Row {
    pub(crate) name: String,
    pub(crate) took: Duration,
    pub(crate) result: Result<StageReport, String>,
}

/// How all of them ended.
pub(crate) struct Outcome {
    rows: Vec<Row>,
    took: Duration,
    budget: Budget,
}

impl Outcome {
    /// Takes the stages' ends together.
    pub(crate) fn new(rows: Vec<Row>, took: Duration, budget: Budget) -> Self {
        Self { rows, took, budget }
    }

    /// How many stages failed.
    pub(crate) fn failed(&self) -> usize {
        self.rows.iter().filter(|row| row.result.is_err()).count()
    }

    fn pending(&self) -> impl Iterator<Item = &String> {
        let passed = self.rows.iter().filter_map(|row| row.result.as_ref().ok());
        passed.flat_map(|said| &said.pending)
    }

    /// The table, and the line that closes a run.
    pub(crate) fn table(&self) -> String {
        let mut text = String::new();
        for row in &self.rows {
            let _ = writeln!(
                text,
                "{:<24} {:>8}  {}",
                row.name,
                clock(row.took),
                verdict(row)
            );
            for report in row.result.iter().flat_map(|said| &said.reports) {
                let _ = writeln!(text, "{:<24} {:>8}    {report}", "", "");
            }
        }
        for reason in self.pending() {
            let _ = writeln!(text, "pending: {reason}");
        }
        let (took, limit) = (clock(self.took), clock(self.budget.limit));
        let (all, failed) = (self.rows.len(), self.failed());
        let _ = writeln!(text, "\n{took} of {limit} for a {} run", self.budget.kind);
        // No failure: the machine may have had other work.
        if self.took > self.budget.limit {
            let advice =
                "over its budget: on a quiet machine, cut counts down or make a stage quicker";
            let _ = writeln!(text, "{advice}");
        }
        let _ = writeln!(text, "tests pending: {}", self.pending().count());
        let _ = writeln!(text, "stages: {} passed, {failed} failed", all - failed);
        text
    }

    /// The stages' entries in the page of long runs.
    pub(crate) fn entries(&self, commit: &str) -> Vec<Entry> {
        self.rows.iter().map(|row| entry(row, commit)).collect()
    }
}

fn entry(row: &Row, commit: &str) -> Entry {
    let mut lines = format!(
        "| {} | {} | {} | {commit} |\n",
        row.name,
        clock(row.took),
        verdict(row)
    );
    for report in row.result.iter().flat_map(|said| &said.reports) {
        let _ = writeln!(lines, "| | | {} | |", report.replace('|', "\\|"));
    }
    Entry {
        stage: row.name.clone(),
        lines,
    }
}

fn verdict(row: &Row) -> String {
    match &row.result {
        Err(error) => format!("FAILED: {}", error.lines().next().unwrap_or_default()),
        Ok(said) if said.tests.passed + said.pending.len() > 0 => {
            let passed = said.tests.passed.saturating_sub(said.pending.len());
            format!("passed: {passed} tests{}", left_out(said))
        }
        Ok(_) => "passed".to_owned(),
    }
}

fn left_out(said: &StageReport) -> String {
    let mut text = String::new();
    if !said.pending.is_empty() {
        let _ = write!(text, ", {} pending", said.pending.len());
    }
    if said.tests.ignored > 0 {
        let _ = write!(text, ", {} left to other stages", said.tests.ignored);
    }
    text
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
    use crate::command::Tests;

    const BUDGET: Budget = Budget {
        kind: "warm",
        limit: Duration::from_mins(1),
    };

    fn row(name: &str, result: Result<StageReport, String>) -> Row {
        Row {
            name: name.to_owned(),
            took: Duration::from_secs(3),
            result,
        }
    }

    #[test]
    fn the_last_line_counts_the_stages() {
        let said = StageReport {
            reports: vec!["conformance 1.1: 74 passed".to_owned()],
            pending: vec!["up".to_owned()],
            tests: Tests {
                passed: 3,
                ignored: 0,
            },
        };
        let rows = vec![
            row("unit", Ok(said)),
            row("doc", Err("`cargo doc` ended".to_owned())),
        ];
        let table = Outcome::new(rows, Duration::from_secs(6), BUDGET).table();
        assert!(table.contains("passed: 2 tests, 1 pending\n"), "{table}");
        assert!(table.contains("  conformance 1.1: 74 passed\n"), "{table}");
        assert!(table.contains("FAILED: `cargo doc` ended\n"), "{table}");
        assert!(
            table.ends_with("tests pending: 1\nstages: 1 passed, 1 failed\n"),
            "{table}"
        );
    }

    #[test]
    fn a_run_over_its_budget_says_so_and_has_not_failed() {
        let rows = || vec![row("unit", Ok(StageReport::default()))];
        for (seconds, is_told) in [(60, false), (61, true)] {
            let outcome = Outcome::new(rows(), Duration::from_secs(seconds), BUDGET);
            assert_eq!(outcome.failed(), 0);
            let table = outcome.table();
            assert_eq!(table.contains("over its budget"), is_told, "{table}");
        }
    }

    #[test]
    fn times_are_short_to_read() {
        assert_eq!(clock(Duration::from_millis(4210)), "4.2s");
        assert_eq!(clock(Duration::from_secs(42)), "42s");
        assert_eq!(clock(Duration::from_secs(187)), "3m07s");
    }
}
