//! Output on standard error: lines, and on a terminal a progress bar for each running copy.

mod bar;
mod events;
mod last_lines;
mod outages;

use std::borrow::Cow;
use std::collections::HashMap;
use std::io::{self, IsTerminal, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use coral_mirror::{Event, Key, Observer, Subject};
use coral_rt::LogFormat;
use indicatif::{HumanDuration, MultiProgress, ProgressBar};
use jiff::Timestamp;
use serde_json::{Map, Value, json};
use tracing_subscriber::fmt::MakeWriter;

use bar::BarLine;
pub(crate) use events::in_words;
use events::{describe, fields};
use last_lines::LastLines;
use outages::{Outages, Verbosity};

/// Standard error, shared by lines, logs and bars. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Terminal(Arc<Inner>);

struct Inner {
    /// Draws nothing when standard error is not a terminal.
    bars: MultiProgress,
    /// Whether bars are drawn.
    is_terminal: bool,
    format: LogFormat,
    shown: Mutex<TerminalState>,
}

/// What a line or a bar is about: a source, and the destination if there is one. A source that is
/// copied to two destinations is two images.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Image {
    source: String,
    key: Option<Key>,
}

impl Image {
    fn from_subject(subject: &Subject<'_>) -> Self {
        Self {
            source: subject.source.to_owned(),
            key: subject.key.cloned(),
        }
    }
}

#[derive(Default)]
struct TerminalState {
    running: HashMap<Image, ProgressBar>,
    /// What was last said of each image.
    said: LastLines,
    /// Hosts that cannot be reached.
    outages: Outages,
}

/// A bar that fits into a line of the terminal at its current width.
fn bar_line() -> BarLine {
    BarLine::fitting(console::Term::stderr().size().1)
}

impl Terminal {
    /// With `Json`, every line is a JSON object, like the log.
    pub(crate) fn new(format: LogFormat) -> Self {
        let is_terminal = io::stderr().is_terminal() && format == LogFormat::Text;
        Self::drawing(is_terminal, MultiProgress::new(), format)
    }

    fn drawing(is_terminal: bool, bars: MultiProgress, format: LogFormat) -> Self {
        Self(Arc::new(Inner {
            bars,
            is_terminal,
            format,
            shown: Mutex::default(),
        }))
    }

    /// Prints a line above the bars. An error is ignored: if standard error is closed, there is
    /// nowhere to report it.
    pub(crate) fn line(&self, text: &str) {
        self.print_event(text, Map::new());
    }

    /// Prints a line; with JSON output, `fields` are added to it.
    fn print_event(&self, text: &str, fields: Map<String, Value>) {
        match self.0.format {
            LogFormat::Text => self.raw(&harmless(text)),
            LogFormat::Json => self.raw(&object(text, fields, Timestamp::now()).to_string()),
        }
    }

    fn raw(&self, text: &str) {
        self.0.bars.suspend(|| {
            let _ = writeln!(io::stderr().lock(), "{text}");
        });
    }

    fn shown(&self) -> MutexGuard<'_, TerminalState> {
        // At worst, a panic elsewhere leaves a bar too many.
        self.0.shown.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begin_bar(&self, image: Image) {
        if !self.0.is_terminal {
            return;
        }
        let bar = self.0.bars.add(ProgressBar::new(0));
        bar_line().begin(&bar, &image.source);
        bar.enable_steady_tick(Duration::from_millis(200));
        let before = self.shown().running.insert(image, bar);
        if let Some(before) = before {
            before.finish_and_clear();
        }
    }

    fn with_bar(&self, image: &Image, change: impl FnOnce(&ProgressBar)) {
        if self.0.is_terminal
            && let Some(bar) = self.shown().running.get(image)
        {
            change(bar);
        }
    }

    /// Removes the bar of a copy.
    pub(crate) fn forget(&self, subject: &Subject<'_>) {
        self.forget_image(&Image::from_subject(subject));
    }

    fn forget_image(&self, image: &Image) {
        if let Some(bar) = self.shown().running.remove(image) {
            bar.finish_and_clear();
        }
    }

    /// How much of an event to print for a person. With JSON output every line is printed, since
    /// programs count them.
    fn verbosity(&self, source: &str, event: &Event<'_>) -> Verbosity {
        if self.0.format != LogFormat::Text {
            return Verbosity::Whole;
        }
        let mut shown = self.shown();
        match event {
            Event::Failed {
                category, error, ..
            } => return shown.outages.failed(source, category, error),
            Event::Mirrored { .. } | Event::UpToDate { .. } => shown.outages.succeeded(source),
            _ => {}
        }
        Verbosity::Whole
    }

    /// Prints a line about an image, unless the last line about it said the same.
    fn say(&self, image: &Image, gist: &str, line: &str, fields: Map<String, Value>) {
        let is_new = self.shown().said.is_new(image, gist);
        if is_new {
            self.print_event(line, fields);
        }
    }
}

impl Observer for Terminal {
    fn observe(&self, subject: &Subject<'_>, event: &Event<'_>) {
        let (source, key) = (subject.source, subject.key);
        let image = Image::from_subject(subject);
        match event {
            Event::Started => self.begin_bar(image),
            Event::Sized { bytes } => self.with_bar(&image, |bar| {
                bar_line().show_sizes(bar);
                bar.inc_length(*bytes);
            }),
            Event::Moved { bytes } | Event::Spared { bytes } => {
                self.with_bar(&image, |bar| bar.inc(*bytes));
            }
            Event::Ended => self.forget_image(&image),
            Event::Mirrored { .. }
            | Event::UpToDate { .. }
            | Event::Damaged { .. }
            | Event::SourceGone
            | Event::TagMoved { .. }
            | Event::PruningPaused { .. }
            | Event::PruningStaysPaused { .. }
            | Event::WaitsForRoom { .. }
            | Event::RoomAgain
            | Event::Pruned { .. }
            | Event::WouldPrune { .. }
            | Event::Unmatched { .. }
            | Event::Failed { .. } => {
                self.forget_image(&image);
                let (gist, line) = describe(source, key, event);
                match self.verbosity(source, event) {
                    Verbosity::Whole => self.say(&image, &gist, &line, fields(source, key, event)),
                    Verbosity::Others => {
                        if let Event::Failed { error, .. } = event {
                            self.line(&format!(
                                "failed: more images, for the same reason: {error}"
                            ));
                        }
                    }
                    Verbosity::Nothing => {}
                }
            }
        }
    }
}

/// A line as a JSON object, in the format of the log. The prefix that a person reads (`error: `,
/// `warning: `) becomes its level, and a line about a failure becomes a warning.
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

/// A time to wait, for people: as [`seconds`], but rounded up, so that a short wait is not shown as
/// 0.0 s and none seems over too early.
pub(crate) fn wait(time: Duration) -> String {
    let unit = if time < Duration::from_secs(10) {
        100
    } else {
        1000
    };
    let units = time.as_millis().div_ceil(unit);
    let millis = u64::try_from(units * unit).unwrap_or(u64::MAX);
    seconds(Duration::from_millis(millis))
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

/// One log event, written above the bars when it is complete.
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

/// Prints data to standard output. A reader that closed the pipe early wanted no more.
pub(crate) fn print(text: &str) {
    let _ = writeln!(io::stdout().lock(), "{}", harmless(text));
}

/// Text without control characters other than line ends and tabs. Names and messages come from
/// registries and files, and a terminal would obey escape sequences in them.
fn harmless(text: &str) -> Cow<'_, str> {
    let is_harmful = |c: char| c.is_control() && !matches!(c, '\n' | '\t');
    if text.contains(is_harmful) {
        text.replace(is_harmful, "\u{fffd}").into()
    } else {
        text.into()
    }
}

#[cfg(test)]
mod tests {
    use coral_image::{Digest, ImageRef};
    use indicatif::ProgressDrawTarget;

    use super::*;

    fn key(destination: &str) -> Key {
        Key::from_reference(&ImageRef::parse(destination).unwrap())
    }

    fn subject<'a>(source: &'a str, key: &'a Key) -> Subject<'a> {
        Subject {
            mirror: None,
            source,
            key: Some(key),
        }
    }

    /// Regression: the end of one copy removed the bar of the other.
    #[test]
    fn a_source_that_is_copied_to_two_destinations_has_two_bars() {
        let bars = MultiProgress::with_draw_target(ProgressDrawTarget::hidden());
        let terminal = Terminal::drawing(true, bars, LogFormat::Text);
        let keys = [key("one:5000/a:1"), key("two:5000/a:1")];
        let [one, two] = keys.each_ref().map(|key| subject("quay.io/a:1", key));
        terminal.observe(&one, &Event::Started);
        terminal.observe(&two, &Event::Started);
        terminal.observe(&one, &Event::Ended);
        terminal.observe(&two, &Event::Sized { bytes: 7 });
        let lengths: Vec<_> = terminal
            .shown()
            .running
            .values()
            .map(ProgressBar::length)
            .collect();
        assert_eq!(lengths, [Some(7)]);
        terminal.observe(&two, &Event::Ended);
        assert!(terminal.shown().running.is_empty());
    }

    /// Regression: the line about the second destination was taken for a repetition of the first.
    #[test]
    fn a_source_that_arrived_at_two_destinations_is_told_of_twice() {
        let mut said = LastLines::default();
        let gist = Digest::sha256(b"a").to_string();
        let images = ["one:5000/a:1", "two:5000/a:1"]
            .map(|destination| Image::from_subject(&subject("quay.io/a:1", &key(destination))));
        let is_new = images.each_ref().map(|image| said.is_new(image, &gist));
        assert_eq!(is_new, [true, true]);
        assert!(!said.is_new(&images[0], &gist));
    }

    #[test]
    fn a_short_wait_is_not_shown_as_none_and_no_wait_as_shorter_than_it_is() {
        for (millis, expected) in [
            (0, "0.0 s"),
            (1, "0.1 s"),
            (49, "0.1 s"),
            (200, "0.2 s"),
            (9_901, "10 s"),
            (32_000, "32 s"),
            (32_001, "33 s"),
            (3_600_000, "60 minutes"),
        ] {
            assert_eq!(wait(Duration::from_millis(millis)), expected, "{millis}");
        }
        assert_eq!(seconds(Duration::from_millis(3)), "0.0 s");
    }

    #[test]
    fn foreign_control_characters_do_not_reach_the_terminal() {
        assert_eq!(
            harmless("a\u{1b}[31m\u{7}b\u{9b}\r\n\tc"),
            "a\u{fffd}[31m\u{fffd}b\u{fffd}\u{fffd}\n\tc"
        );
        assert!(matches!(harmless("plain é"), Cow::Borrowed(_)));
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
