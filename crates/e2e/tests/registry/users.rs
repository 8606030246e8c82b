//! Files of users, made by Apache's `htpasswd`.

#![allow(dead_code, reason = "each test binary has its own use of the users")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use e2e::run;

/// A name and a password.
pub(crate) type Login = (&'static str, &'static str);

pub(crate) const ANNA: Login = ("anna", "correct horse");
pub(crate) const CI: Login = ("ci", "battery:staple");

/// One line of a file.
pub(crate) fn line((name, password): Login) -> String {
    e2e::password(name, password);
    let finished = run(Command::new("htpasswd").args(["-nbB", name, password]));
    finished.succeeded().text().trim().to_owned()
}

/// A file with these users.
pub(crate) fn file(folder: &Path, users: &[Login]) -> PathBuf {
    let path = folder.join("htpasswd");
    write(&path, users);
    path
}

/// Replaces the file as a whole.
pub(crate) fn write(path: &Path, users: &[Login]) {
    let lines: Vec<String> = users.iter().copied().map(line).collect();
    let new = path.with_extension("new");
    fs::write(&new, lines.join("\n") + "\n").expect("scratch is writable");
    fs::rename(new, path).expect("scratch is writable");
}
