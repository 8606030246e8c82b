//! The summary that `coral up` prints once every image was checked.

use std::path::Path;
use std::time::{Duration, Instant};

use coral_mirror::{Key, Summary};
use coral_rt::Tls;
use jiff::Timestamp;

use crate::mirror::in_words;
use crate::terminal::{Terminal, wait};

/// Shortest time between two lines once every image was checked.
const LINE_EVERY: Duration = Duration::from_mins(1);
/// Longest time between two lines while something fails.
const FAILURES_EVERY: Duration = Duration::from_mins(10);

/// What was last printed, and when.
#[derive(Default)]
pub(crate) struct Status {
    told: Option<Told>,
}

struct Told {
    at: Instant,
    words: String,
    /// How long to print nothing while something fails and nothing changes.
    silence: Duration,
}

impl Status {
    /// Prints the first line as soon as every image was checked once, with commands to try next.
    /// After that it prints at most one line per minute, if something has changed, and now and then
    /// while something fails.
    pub(crate) fn tell(
        &mut self,
        total: &Summary,
        first: Option<&Key>,
        terminal: &Terminal,
        data: &Path,
        tls: &Tls,
    ) {
        let first_time = self.told.is_none();
        if self.is_due(total, Instant::now()) {
            terminal.line(&format!(
                "{}{}",
                in_words(total),
                what_next(total, Timestamp::now())
            ));
            if first_time {
                next_steps(first, terminal, data, tls);
            }
        }
    }

    fn is_due(&mut self, total: &Summary, now: Instant) -> bool {
        let words = in_words(total);
        let fails = total.failing + total.errors > 0;
        let silence = match &self.told {
            None if !total.quiet || total.desired + total.failing + total.errors == 0 => {
                return false;
            }
            Some(told) if told.words == words => {
                if !fails || now.duration_since(told.at) < told.silence {
                    return false;
                }
                (told.silence * 2).min(FAILURES_EVERY)
            }
            Some(told) if now.duration_since(told.at) < LINE_EVERY => return false,
            None | Some(_) => LINE_EVERY,
        };
        self.told = Some(Told {
            at: now,
            words,
            silence,
        });
        true
    }
}

/// When the next automatic attempt is, while something fails.
fn what_next(total: &Summary, now: Timestamp) -> String {
    let until = |at: Timestamp| wait(at.duration_since(now).try_into().unwrap_or_default());
    match (
        total.failing + total.errors > 0,
        total.next_try,
        total.next_pass,
    ) {
        (true, Some(at), _) if at <= now => "; next try now".to_owned(),
        (true, Some(at), _) => format!("; next try in {}", until(at)),
        (true, None, Some(at)) => format!("; looked at again in {}", until(at)),
        _ => String::new(),
    }
}

fn next_steps(first: Option<&Key>, terminal: &Terminal, data: &Path, tls: &Tls) {
    terminal.line(&format!(
        "Ctrl-C stops; the images stay in {}",
        data.display()
    ));
    let Some(key) = first else { return };
    terminal.line("Pull an image, for example:");
    terminal.line(&format!("  docker pull {key}"));
    if tls.is_on() {
        terminal.line(&format!("  skopeo copy docker://{key} oci:image:latest"));
        return;
    }
    terminal.line(&format!(
        "  skopeo copy --src-tls-verify=false docker://{key} oci:image:latest"
    ));
    terminal.line(&format!(
        "  {}",
        crate::client::copy_command(key.repository.host(), key)
    ));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_http_is_typed_only_for_hosts_that_are_not_tried_with_it() {
        for (host, expected) in [
            ("127.0.0.1:5000", "coral copy IMAGE oci:image:latest"),
            ("localhost:5000", "coral copy IMAGE oci:image:latest"),
            (
                "10.0.0.7:5000",
                "coral copy --plain-http 10.0.0.7:5000 IMAGE oci:image:latest",
            ),
        ] {
            let host = coral_image::Host::parse(host).unwrap();
            assert_eq!(crate::client::copy_command(&host, "IMAGE"), expected);
        }
    }

    fn failing(moved: u64) -> Summary {
        Summary {
            desired: 2,
            mirrored: 1,
            failing: 1,
            moved,
            quiet: true,
            ..Summary::default()
        }
    }

    #[test]
    fn a_failure_is_told_again_after_longer_and_longer_silence_and_success_is_not() {
        let (mut status, begin) = (Status::default(), Instant::now());
        let minutes: Vec<u64> = (0..60)
            .filter(|&minute| status.is_due(&failing(0), begin + Duration::from_mins(minute)))
            .collect();
        assert_eq!(minutes, [0, 1, 3, 7, 15, 25, 35, 45, 55]);
        let well = Summary {
            failing: 0,
            mirrored: 2,
            ..failing(0)
        };
        let later = begin + Duration::from_hours(2);
        assert!(status.is_due(&well, later));
        assert!(!status.is_due(&well, later + Duration::from_hours(9)));
    }

    #[test]
    fn news_are_told_once_a_minute_at_most() {
        let (mut status, begin) = (Status::default(), Instant::now());
        let told = (0..180)
            .filter(|&second| status.is_due(&failing(second), begin + Duration::from_secs(second)));
        assert_eq!(told.count(), 3);
    }

    #[test]
    fn what_comes_next_is_said_as_long_as_something_fails() {
        let now = Timestamp::UNIX_EPOCH;
        let at = |seconds| Some(Timestamp::from_second(seconds).unwrap());
        let mut total = failing(0);
        (total.next_try, total.next_pass) = (at(32), at(3600));
        assert_eq!(what_next(&total, now), "; next try in 32 s");
        total.next_try = at(0);
        assert_eq!(what_next(&total, now), "; next try now");
        // Regression: it said "in 0.0 s".
        total.next_try = Some(Timestamp::from_millisecond(40).unwrap());
        assert_eq!(what_next(&total, now), "; next try in 0.1 s");
        total.next_try = None;
        assert_eq!(what_next(&total, now), "; looked at again in 60 minutes");
        total.failing = 0;
        assert_eq!(what_next(&total, now), "");
    }
}
