//! Findings, and how they are printed.

use serde::Serialize;

use crate::terminal::print;

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Level {
    /// It works.
    Ok,
    /// It works or may work, but deserves attention.
    Warn,
    /// It does not work.
    Fail,
}

/// One line of the result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Finding {
    pub(super) level: Level,
    /// The registry or folder.
    pub(super) place: String,
    /// What was checked.
    pub(super) check: &'static str,
    pub(super) found: String,
    /// What to do.
    #[serde(rename = "do", skip_serializing_if = "Option::is_none")]
    pub(super) advice: Option<String>,
}

impl Finding {
    pub(super) fn ok(place: &str, check: &'static str, found: impl Into<String>) -> Self {
        Self::new(Level::Ok, place, check, found.into(), None)
    }

    pub(super) fn warn(
        place: &str,
        check: &'static str,
        found: impl Into<String>,
        advice: impl Into<String>,
    ) -> Self {
        Self::new(Level::Warn, place, check, found.into(), Some(advice.into()))
    }

    pub(super) fn fail(
        place: &str,
        check: &'static str,
        found: impl Into<String>,
        advice: impl Into<String>,
    ) -> Self {
        Self::new(Level::Fail, place, check, found.into(), Some(advice.into()))
    }

    fn new(
        level: Level,
        place: &str,
        check: &'static str,
        found: String,
        advice: Option<String>,
    ) -> Self {
        Self {
            level,
            place: place.to_owned(),
            check,
            found,
            advice,
        }
    }
}

/// Prints one line per finding, with the advice below it.
pub(super) fn print_table(findings: &[Finding]) {
    let width = findings.iter().map(|finding| finding.place.len()).max();
    let width = width.unwrap_or_default();
    for finding in findings {
        let level = match finding.level {
            Level::Ok => "OK  ",
            Level::Warn => "WARN",
            Level::Fail => "FAIL",
        };
        let Finding {
            place,
            check,
            found,
            advice,
            ..
        } = finding;
        print(&format!("{level}  {place:width$}  {check:<10}  {found}"));
        if let Some(advice) = advice {
            print(&format!("      {:width$}  {:<10}  -> {advice}", "", ""));
        }
    }
}

pub(super) fn print_json(findings: &[Finding]) {
    let ok = findings.iter().all(|finding| finding.level != Level::Fail);
    print(&serde_json::json!({"ok": ok, "checks": findings}).to_string());
}
