//! The progress display in a terminal: tmux is the terminal, Chromium draws what it shows.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use e2e::browser::{Colours, screenshot};
use e2e::{coral, run, until};

use crate::PATIENCE;
use crate::scene::Scene;

const WIDTH: &str = "128";
const HEIGHT: &str = "17";

/// Runs `coral up` in a terminal until several copies are under way, and takes a picture.
pub(crate) fn take(scene: &Scene, file: &Path) {
    let folder = scene.folder();
    let tmux = |words: &[&str]| {
        let mut command = Command::new("tmux");
        command.arg("-S").arg(folder.join("tmux")).args(words);
        command.current_dir(&folder).env("HOME", &folder);
        command
    };
    let mut start = tmux(&[
        "-f",
        "/dev/null",
        "new-session",
        "-d",
        "-x",
        WIDTH,
        "-y",
        HEIGHT,
    ]);
    let path = format!(
        "{}:{}",
        folder.display(),
        std::env::var("PATH").unwrap_or_default()
    );
    symlink(coral().get_program(), folder.join("coral")).unwrap();
    start.arg("PS1='$ ' exec sh").env("PATH", path);
    let _ = run(start.envs(scene.environment()).env("LC_ALL", "C.UTF-8")).succeeded();
    let visible = || run(&mut tmux(&["capture-pane", "-p"])).succeeded().stdout;
    // What is typed before the prompt is there stands above it in the picture.
    until("the shell's prompt", PATIENCE, || {
        visible().trim_end().ends_with('$').then_some(())
    });
    let _ = run(&mut tmux(&["send-keys", "coral up mirrors", "Enter"])).succeeded();
    let shown = until("copies under way", PATIENCE, || {
        let text = visible();
        let bars = text
            .lines()
            .filter(|line| line.contains("MiB/s") || line.contains("KiB/s"));
        (bars.count() >= 5 && text.contains("mirrored")).then_some(text)
    });
    let _ = run(&mut tmux(&["send-keys", "C-c"])).succeeded();
    until("the end of coral up", PATIENCE, || {
        visible().trim_end().ends_with('$').then_some(())
    });
    let _ = run(&mut tmux(&["kill-server"]));
    let page = folder.join("terminal.html");
    fs::write(&page, drawn(&shown)).unwrap();
    screenshot(
        &format!("file://{}", page.display()),
        file,
        (1070, 345),
        Colours::Dark,
    );
    println!("wrote {}", file.display());
}

fn drawn(text: &str) -> String {
    let text = text.replace('&', "&amp;").replace('<', "&lt;");
    format!(
        "<!doctype html><meta charset=utf-8><style>body{{margin:0;background:#15181c;color:#e4e6e8}}\
         pre{{margin:0;padding:14px;font:13.5px/1.35 'DejaVu Sans Mono',monospace}}</style>\
         <pre>{}</pre>",
        text.trim_end()
    )
}
