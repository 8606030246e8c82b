//! The line of a running copy: its name, a bar and numbers, as wide as the terminal allows.

use indicatif::{ProgressBar, ProgressStyle};

/// The text beside the name until the sizes are known.
const UNSIZED: &str = "reading its manifests";
/// Copied and total bytes. `1023.99 MiB` is the longest amount.
const AMOUNTS: &str = " {bytes:>11} / {total_bytes:<11}";
const AMOUNTS_WIDTH: usize = 26;
/// Rate and remaining time.
const RATE: &str = " {bytes_per_sec:>13} {eta:>4}";
const RATE_WIDTH: usize = 19;
/// The only number on a narrow terminal.
const SHARE: &str = " {percent:>3}%";
const SHARE_WIDTH: usize = 5;

/// The bar grows beyond its shortest width only if the name has this many columns.
const SHORT_NAME: usize = 20;
const LONGEST_NAME: usize = 60;
const SHORTEST_BAR: usize = 8;
const LONGEST_BAR: usize = 24;

/// How the columns of a line are divided. A line that is wider than the terminal wraps, and part of
/// it stays on the screen.
#[derive(Debug)]
pub(super) struct BarLine {
    name: usize,
    bar: usize,
    numbers: String,
}

impl BarLine {
    /// The line for a terminal with this many columns.
    pub(super) fn fitting(columns: u16) -> Self {
        // The last column stays free: some terminals wrap a line that fills it.
        let room = usize::from(columns).saturating_sub(1);
        let least = SHORT_NAME + 1 + SHORTEST_BAR;
        let (numbers, taken) = if room >= least + AMOUNTS_WIDTH + RATE_WIDTH {
            (format!("{AMOUNTS}{RATE}"), AMOUNTS_WIDTH + RATE_WIDTH)
        } else if room >= least + AMOUNTS_WIDTH {
            (AMOUNTS.to_owned(), AMOUNTS_WIDTH)
        } else {
            (SHARE.to_owned(), SHARE_WIDTH)
        };
        // A blank separates the name from the rest.
        let left = room.saturating_sub(taken + 1);
        let bar = left
            .saturating_sub(SHORT_NAME)
            .clamp(SHORTEST_BAR, LONGEST_BAR);
        let beside_unsized = room.saturating_sub(UNSIZED.len() + 1);
        let name = left.saturating_sub(bar).min(beside_unsized);
        Self {
            name: name.clamp(1, LONGEST_NAME),
            bar,
            numbers,
        }
    }

    /// Shows the name of a copy whose sizes are not known yet.
    pub(super) fn begin(&self, bar: &ProgressBar, name: &str) {
        self.set_style(bar, UNSIZED);
        bar.set_message(cut_in_the_middle(name, self.name));
    }

    /// Shows the bar and the numbers too.
    pub(super) fn show_sizes(&self, bar: &ProgressBar) {
        self.set_style(bar, &format!("{{bar:{}}}{}", self.bar, self.numbers));
    }

    fn set_style(&self, bar: &ProgressBar, beside: &str) {
        let template = format!("{{msg:{}!}} {beside}", self.name);
        if let Ok(style) = ProgressStyle::with_template(&template) {
            bar.set_style(style);
        }
    }
}

/// Shortens a name in the middle: the host at its beginning and the tag at its end stay.
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

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use indicatif::{ProgressDrawTarget, TermLike};

    use super::*;

    /// A terminal that records what is written to it.
    #[derive(Clone, Debug)]
    struct FakeTerminal {
        columns: u16,
        written: Arc<Mutex<String>>,
    }

    impl FakeTerminal {
        fn write(&self, text: &str, end: &str) {
            let mut written = self.written.lock().unwrap();
            written.push_str(text);
            written.push_str(end);
        }
    }

    impl TermLike for FakeTerminal {
        fn width(&self) -> u16 {
            self.columns
        }

        fn move_cursor_up(&self, _: usize) -> io::Result<()> {
            self.write("", "\n");
            Ok(())
        }

        fn move_cursor_down(&self, _: usize) -> io::Result<()> {
            self.write("", "\n");
            Ok(())
        }

        fn move_cursor_right(&self, _: usize) -> io::Result<()> {
            Ok(())
        }

        fn move_cursor_left(&self, _: usize) -> io::Result<()> {
            Ok(())
        }

        fn write_line(&self, text: &str) -> io::Result<()> {
            self.write(text, "\n");
            Ok(())
        }

        fn write_str(&self, text: &str) -> io::Result<()> {
            self.write(text, "");
            Ok(())
        }

        fn clear_line(&self) -> io::Result<()> {
            self.write("", "\n");
            Ok(())
        }

        fn flush(&self) -> io::Result<()> {
            Ok(())
        }
    }

    /// The lines drawn for a copy that has begun, and for one whose sizes are known.
    fn drawn(columns: u16) -> Vec<String> {
        let paper = FakeTerminal {
            columns,
            written: Arc::default(),
        };
        let target = ProgressDrawTarget::term_like(Box::new(paper.clone()));
        let bar = ProgressBar::with_draw_target(Some(0), target);
        let line = BarLine::fitting(columns);
        line.begin(
            &bar,
            "quay.io/a-team/an-application-with-a-name-that-is-long:1.28.3-r4",
        );
        bar.tick();
        line.show_sizes(&bar);
        bar.set_length(1023 << 20);
        bar.set_position(1000 << 20);
        bar.tick();
        let written = paper.written.lock().unwrap();
        let lines = written.lines().map(|line| line.trim().to_owned());
        lines.filter(|line| !line.is_empty()).collect()
    }

    /// Regression: at 80 columns a line had 87, and its end was left behind on the screen.
    #[test]
    fn a_bar_is_never_wider_than_its_terminal() {
        for columns in [45, 60, 79, 80, 81, 100, 132, 250] {
            let lines = drawn(columns);
            for wanted in ["reading its manifests", "quay.io"] {
                let is_there = lines.iter().any(|line| line.contains(wanted));
                assert!(is_there, "{wanted} at {columns}: {lines:?}");
            }
            for line in lines {
                let width = console::measure_text_width(&line);
                assert!(width < usize::from(columns), "{columns}: {width}: {line}");
            }
        }
    }

    #[test]
    fn a_usual_terminal_has_the_rate_and_a_narrow_one_the_share() {
        assert_eq!(BarLine::fitting(80).name, SHORT_NAME);
        let shown = |columns| drawn(columns).pop().unwrap_or_default();
        assert!(shown(80).contains("/s"), "{}", shown(80));
        assert!(shown(60).contains("1023.00 MiB"), "{}", shown(60));
        assert!(shown(50).ends_with('%'), "{}", shown(50));
    }
}
