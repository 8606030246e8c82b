//! What `coral up` says once it is quiet.

use std::path::Path;
use std::time::{Duration, Instant};

use coral_mirror::{Key, Summary};

use crate::mirror::in_words;
use crate::terminal::Terminal;

/// Shortest time between two lines once everything was looked at.
const LINE_EVERY: Duration = Duration::from_mins(1);

/// When what was told last.
#[derive(Default)]
pub(crate) struct Status {
    told: Option<(Instant, String)>,
}

impl Status {
    /// Says it at once when everything was looked at for the first time, with what to type next;
    /// after that one line a minute at most, and only when there is something new.
    pub(crate) fn tell(
        &mut self,
        total: &Summary,
        first: Option<&Key>,
        terminal: &Terminal,
        data: &Path,
    ) {
        let words = in_words(total);
        let first_time = self.told.is_none();
        match &self.told {
            None if !total.quiet || total.desired + total.failing + total.errors == 0 => return,
            Some((_, before)) if *before == words => return,
            Some((at, _)) if at.elapsed() < LINE_EVERY => return,
            None | Some(_) => {}
        }
        terminal.line(&words);
        if first_time {
            next_steps(first, terminal, data);
        }
        self.told = Some((Instant::now(), words));
    }
}

fn next_steps(first: Option<&Key>, terminal: &Terminal, data: &Path) {
    terminal.line(&format!(
        "Ctrl-C stops; the images stay in {}",
        data.display()
    ));
    let Some(key) = first else { return };
    terminal.line("Pull an image, for example:");
    terminal.line(&format!("  docker pull {key}"));
    terminal.line(&format!(
        "  skopeo copy --src-tls-verify=false docker://{key} oci:image:latest"
    ));
    let host = key.repository.host();
    terminal.line(&format!(
        "  coral copy --plain-http {host} {key} oci:image:latest"
    ));
}
