//! Debian's Chromium without a window: shows pages in a real browser.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::process::Process;
use crate::run::scratch;

/// A browser that takes longer to show a page on loopback hangs.
const PATIENCE: Duration = Duration::from_mins(2);

/// A profile in which JavaScript is off for every site.
const NO_SCRIPTS: &str = r#"{"profile": {"default_content_setting_values": {"javascript": 2}}}"#;

/// Which colours a person asked their system for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Colours {
    /// Dark text on a light ground.
    Light,
    /// Light text on a dark ground.
    Dark,
}

/// A page as the browser understood it, with JavaScript off: the DOM, and what it complained of.
pub struct Dom {
    /// The document, written out again.
    pub html: String,
    /// The browser's log, where violations of the page's policy stand.
    pub log: String,
}

/// The page at `url`.
///
/// # Panics
/// If Chromium is missing, or shows nothing.
pub fn dom(url: &str) -> Dom {
    let mut process = start(&["--dump-dom"], url);
    let code = process.wait(PATIENCE);
    let (html, log) = process.output();
    assert_eq!(code, 0, "chromium on {url}:\n{log}");
    Dom { html, log }
}

/// A picture of the page at `url`, written to `file` as PNG.
///
/// # Panics
/// If Chromium is missing, or makes no picture.
pub fn screenshot(url: &str, file: &Path, (width, height): (u32, u32), colours: Colours) {
    let size = format!("--window-size={width},{height}");
    let to = format!("--screenshot={}", file.display());
    let mut arguments = vec!["--hide-scrollbars", &size, &to];
    if colours == Colours::Dark {
        // Emulates a dark desktop: the page only learns the user's preference.
        arguments.push("--force-dark-mode");
    }
    let mut process = start(&arguments, url);
    let code = process.wait(PATIENCE);
    assert_eq!(code, 0, "chromium on {url}:\n{}", process.shown());
    assert!(file.is_file(), "no picture of {url}:\n{}", process.shown());
}

fn start(arguments: &[&str], url: &str) -> Process {
    let profile = scratch();
    let settings = profile.path().join("Default");
    fs::create_dir(&settings).expect("scratch is writable");
    fs::write(settings.join("Preferences"), NO_SCRIPTS).expect("scratch is writable");
    let mut command = Command::new("chromium");
    command.args([
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--disable-dev-shm-usage",
        "--enable-logging=stderr",
    ]);
    command.arg(format!("--user-data-dir={}", profile.path().display()));
    command.args(arguments).arg(url).env("HOME", profile.path());
    let mut process = Process::start(&mut command);
    // The profile goes away when the browser is done with it.
    process.keep(profile);
    process
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[ignore = "needs chromium; run by cargo xtask test"]
    fn scripts_do_not_run() {
        let home = scratch();
        let file = home.path().join("page.html");
        let page = "<p id=p>as written</p><script>p.textContent = 'changed'</script>";
        fs::write(&file, page).expect("scratch is writable");
        let shown = dom(&format!("file://{}", file.display()));
        assert!(shown.html.contains("as written"), "{}", shown.html);
    }
}
