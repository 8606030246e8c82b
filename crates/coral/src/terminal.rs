//! What a person sees on standard error: lines, and on a terminal a bar for each running copy.

use std::collections::HashMap;
use std::io::{self, IsTerminal, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use coral_image::Digest;
use coral_mirror::{Event, Key, NextTry, Observer, Standing, Subject};
use coral_rt::LogFormat;
use indicatif::{HumanBytes, HumanDuration, MultiProgress, ProgressBar, ProgressStyle};
use jiff::Timestamp;
use serde_json::{Map, Value, json};
use tracing_subscriber::fmt::MakeWriter;

/// Failures remembered so that none is told twice; past it, they may be.
const MAX_REMEMBERED: usize = 10_000;

/// What stands beside the name of an image whose sizes are known.
const SIZED: &str = "{bar:24} {bytes:>10} / {total_bytes:<10} {bytes_per_sec:>12} {eta:>4}";
/// And before that.
const UNSIZED: &str = "reading its manifests";

/// Standard error, shared by lines, logs and bars. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Terminal(Arc<Inner>);

struct Inner {
    /// Draws nothing when standard error is not a terminal.
    bars: MultiProgress,
    /// Whether bars are drawn.
    is_terminal: bool,
    format: LogFormat,
    shown: Mutex<Shown>,
}

#[derive(Default)]
struct Shown {
    running: HashMap<String, ProgressBar>,
    /// What was last said of an image.
    said: HashMap<String, String>,
}

/// Columns of a bar besides the name, blanks between them included.
const BESIDE_THE_NAME: u16 = 70;

/// Columns that are there for the name.
fn name_width() -> usize {
    let columns = console::Term::stderr().size().1;
    usize::from(columns.saturating_sub(BESIDE_THE_NAME)).clamp(20, 60)
}

impl Terminal {
    /// With `Json`, whatever is said is one JSON object a line, like the log.
    pub(crate) fn new(format: LogFormat) -> Self {
        let is_terminal = io::stderr().is_terminal() && format == LogFormat::Text;
        let bars = MultiProgress::new();
        Self(Arc::new(Inner {
            bars,
            is_terminal,
            format,
            shown: Mutex::default(),
        }))
    }

    /// Prints a line above the bars. When nobody reads standard error any more, there is nobody
    /// to tell that either.
    pub(crate) fn line(&self, text: &str) {
        self.tell(text, Map::new());
    }

    /// Says a line; machines get `fields` beside it.
    fn tell(&self, text: &str, fields: Map<String, Value>) {
        match self.0.format {
            LogFormat::Text => self.raw(text),
            LogFormat::Json => self.raw(&object(text, fields, Timestamp::now()).to_string()),
        }
    }

    fn raw(&self, text: &str) {
        self.0.bars.suspend(|| {
            let _ = writeln!(io::stderr().lock(), "{text}");
        });
    }

    fn shown(&self) -> MutexGuard<'_, Shown> {
        // Worst a panic elsewhere can leave behind is a bar too many.
        self.0.shown.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begin_bar(&self, name: &str) {
        if !self.0.is_terminal {
            return;
        }
        let bar = self.0.bars.add(ProgressBar::new(0));
        set_style(&bar, UNSIZED);
        bar.set_message(cut_in_the_middle(name, name_width()));
        bar.enable_steady_tick(Duration::from_millis(200));
        self.shown().running.insert(name.to_owned(), bar);
    }

    fn with_bar(&self, name: &str, change: impl FnOnce(&ProgressBar)) {
        if self.0.is_terminal
            && let Some(bar) = self.shown().running.get(name)
        {
            change(bar);
        }
    }

    /// Takes the bar of a copy away.
    pub(crate) fn forget(&self, name: &str) {
        if let Some(bar) = self.shown().running.remove(name) {
            bar.finish_and_clear();
        }
    }

    /// Says something of an image, unless that was the last thing said of it.
    fn say(&self, name: &str, gist: &str, line: &str, fields: Map<String, Value>) {
        let mut shown = self.shown();
        if shown.said.len() >= MAX_REMEMBERED {
            shown.said.clear();
        }
        let before = shown.said.insert(name.to_owned(), gist.to_owned());
        drop(shown);
        if before.as_deref() != Some(gist) {
            self.tell(line, fields);
        }
    }
}

impl Observer for Terminal {
    fn observe(&self, subject: &Subject<'_>, event: &Event<'_>) {
        let (source, key) = (subject.source, subject.key);
        match event {
            Event::Started => self.begin_bar(source),
            Event::Sized { bytes } => self.with_bar(source, |bar| {
                set_style(bar, SIZED);
                bar.inc_length(*bytes);
            }),
            Event::Moved { bytes } | Event::Spared { bytes } => {
                self.with_bar(source, |bar| bar.inc(*bytes));
            }
            Event::Mirrored { .. }
            | Event::UpToDate { .. }
            | Event::Damaged { .. }
            | Event::Pruned
            | Event::WouldPrune
            | Event::Unmatched { .. }
            | Event::Failed { .. } => {
                self.forget(source);
                let (gist, line) = told(source, key, event);
                self.say(source, &gist, &line, fields(source, key, event));
            }
        }
    }
}

fn set_style(bar: &ProgressBar, beside: &str) {
    let template = format!("{{msg:{}!}} {beside}", name_width());
    if let Ok(style) = ProgressStyle::with_template(&template) {
        bar.set_style(style);
    }
}

/// What is said of an event: the gist, by which two are the same, and the line.
fn told(source: &str, key: Option<&Key>, event: &Event<'_>) -> (String, String) {
    let to = key.map(|key| format!(" -> {key}")).unwrap_or_default();
    match event {
        Event::Mirrored {
            digest,
            moved,
            sparse,
            elapsed,
        } => {
            let sparse = if *sparse {
                ", sparse: only the platforms asked for"
            } else {
                ""
            };
            let (bytes, time) = (HumanBytes(*moved), seconds(*elapsed));
            let line = format!(
                "mirrored {source}{to} ({}, {bytes} in {time}{sparse})",
                digest.short()
            );
            (gist_of(digest), line)
        }
        Event::UpToDate { digest } => (
            gist_of(digest),
            format!("up to date {source}{to} ({})", digest.short()),
        ),
        Event::Damaged { parts } => (
            "damaged".to_owned(),
            format!(
                "damaged {source}{to}: {parts} manifests or blobs gone or broken; copied again"
            ),
        ),
        Event::Pruned => (
            "deleted".to_owned(),
            format!("deleted{to}: no longer selected"),
        ),
        Event::WouldPrune => (
            "would delete".to_owned(),
            format!("would delete{to}: no longer selected (dry run)"),
        ),
        Event::Unmatched { tags } => (
            "unmatched".to_owned(),
            format!("warning: {source}: select fits none of its {tags} tags"),
        ),
        Event::Failed {
            error,
            next,
            attempts,
            standing,
            ..
        } => {
            let again = match next {
                NextTry::In(wait) => format!("retry in {}", seconds(*wait)),
                NextTry::ComeBackIn(wait) => {
                    format!("not waited for: come back in {}", seconds(*wait))
                }
                NextTry::NextPass => "not retried before the next pass".to_owned(),
            };
            let times = match (attempts, standing) {
                (0 | 1, Standing::Failing) => String::new(),
                (0 | 1, Standing::InError) => " (in error)".to_owned(),
                (n, Standing::Failing) => format!(" ({n} times in a row)"),
                (n, Standing::InError) => format!(" ({n} times in a row, in error)"),
            };
            // Told at the first, second, fourth, eighth … time, so that the wait on the terminal
            // is never older than half of the real one; and when it becomes an error.
            let gist = format!(
                "{error} {standing:?} {} {}",
                matches!(next, NextTry::In(_)),
                attempts.max(&1).ilog2()
            );
            (gist, format!("failed {source}{times}: {error}; {again}"))
        }
        Event::Started | Event::Sized { .. } | Event::Moved { .. } | Event::Spared { .. } => {
            Default::default()
        }
    }
}

/// Keeps both ends of a name: the host it begins with and the tag it ends with.
fn cut_in_the_middle(name: &str, width: usize) -> String {
    let letters: Vec<char> = name.chars().collect();
    if letters.len() <= width.max(3) {
        return name.to_owned();
    }
    let kept = width.max(3) - 1;
    let (head, tail) = (kept / 2, kept - kept / 2);
    let start: String = letters[..head].iter().collect();
    let end: String = letters[letters.len() - tail..].iter().collect();
    format!("{start}…{end}")
}

/// A line as machines read it, in the form of the log's lines. What a person reads at the begin of
/// a line (`error: `, `warning: `) is its level here, and what tells of a failure is a warning.
fn object(text: &str, mut fields: Map<String, Value>, now: Timestamp) -> Value {
    let (level, message) = match text.split_once(": ") {
        Some(("error", rest)) => ("ERROR", rest),
        Some(("warning", rest)) => ("WARN", rest),
        _ if fields.contains_key("error") => ("WARN", text),
        _ => ("INFO", text),
    };
    fields.insert("message".to_owned(), message.into());
    json!({"timestamp": now, "level": level, "fields": fields, "target": "coral"})
}

/// What a machine gets of an event beside the line.
fn fields(source: &str, key: Option<&Key>, event: &Event<'_>) -> Map<String, Value> {
    let more = match event {
        Event::Mirrored { digest, moved, .. } => json!({"digest": digest, "bytes": moved}),
        Event::UpToDate { digest } => json!({"digest": digest}),
        Event::Failed {
            error,
            category,
            attempts,
            ..
        } => json!({"error": error, "category": category, "attempts": attempts}),
        _ => Value::Null,
    };
    let mut fields = Map::from_iter([("image".to_owned(), source.into())]);
    if let Some(key) = key {
        fields.insert("destination".to_owned(), key.to_string().into());
    }
    if let Value::Object(more) = more {
        fields.extend(more);
    }
    fields
}

fn gist_of(digest: &Digest) -> String {
    digest.to_string()
}

/// A time for people: tenths of a second below ten seconds, then whole units.
pub(crate) fn seconds(time: Duration) -> String {
    if time < Duration::from_secs(10) {
        format!("{:.1} s", time.as_secs_f64())
    } else if time < Duration::from_mins(2) {
        format!("{} s", time.as_secs())
    } else {
        HumanDuration(time).to_string()
    }
}

impl<'a> MakeWriter<'a> for Terminal {
    type Writer = LogLine<'a>;

    fn make_writer(&'a self) -> Self::Writer {
        LogLine {
            terminal: self,
            line: vec![],
        }
    }
}

/// One log event, written above the bars when it is whole.
pub(crate) struct LogLine<'a> {
    terminal: &'a Terminal,
    line: Vec<u8>,
}

impl Write for LogLine<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.line.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for LogLine<'_> {
    fn drop(&mut self) {
        self.terminal
            .raw(String::from_utf8_lossy(&self.line).trim_end());
    }
}

/// Prints data to standard output. A reader that went away early wanted no more.
pub(crate) fn print(text: &str) {
    let _ = writeln!(io::stdout().lock(), "{text}");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed(attempts: u32, standing: Standing) -> (String, String) {
        let event = Event::Failed {
            error: "broken",
            category: "server",
            attempts,
            standing,
            next: NextTry::In(Duration::from_secs(16)),
        };
        told("a:1", None, &event)
    }

    #[test]
    fn a_selection_that_fits_nothing_is_warned_of() {
        let (_, line) = told("quay.io/team/app", None, &Event::Unmatched { tags: 3 });
        assert_eq!(
            line,
            "warning: quay.io/team/app: select fits none of its 3 tags"
        );
    }

    #[test]
    fn what_becomes_an_error_is_told_though_the_try_before_was_told() {
        let (fourth, _) = failed(4, Standing::Failing);
        let (fifth, line) = failed(5, Standing::InError);
        assert_ne!(fourth, fifth);
        assert_eq!(
            line,
            "failed a:1 (5 times in a row, in error): broken; retry in 16 s"
        );
        assert_eq!(fourth, failed(5, Standing::Failing).0);
        assert_eq!(fifth, failed(7, Standing::InError).0);
    }

    #[test]
    fn a_line_for_machines_has_its_level_and_what_it_is_about() {
        let now = Timestamp::from_second(0).unwrap();
        let fields = Map::from_iter([("image".to_owned(), "a:1".into())]);
        let shown = object("warning: odd", fields, now);
        assert_eq!(shown["level"], "WARN");
        assert_eq!(shown["fields"], json!({"image": "a:1", "message": "odd"}));
        assert_eq!(object("http: a", Map::new(), now)["level"], "INFO");
        assert_eq!(shown["timestamp"], "1970-01-01T00:00:00Z");
    }

    /// Regression: a search for warnings found no failure of any image.
    #[test]
    fn a_line_for_machines_about_a_failure_is_a_warning() {
        let fields = Map::from_iter([("error".to_owned(), "broken".into())]);
        let shown = object("failed a:1: broken", fields, Timestamp::UNIX_EPOCH);
        assert_eq!(shown["level"], "WARN");
        assert_eq!(shown["fields"]["message"], "failed a:1: broken");
    }
}
