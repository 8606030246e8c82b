//! One man page.

use std::io;

use clap::Command;
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};

use crate::examples::examples;

/// Exit codes, for every subcommand.
const EXIT_STATUS: [(&str, &str); 3] = [
    ("0", "Success."),
    (
        "1",
        "Something failed; the message on standard error says what.",
    ),
    (
        "2",
        "The input is wrong: a flag, a file, a reference. Nothing was done.",
    ),
];
/// For `coral build` only.
const EXIT_STATUS_OF_BUILD: (&str, &str) = (
    "any other",
    "The build failed. This is the exit code of the build container.",
);

/// Files that are read or written unless a flag names others.
const FILES: [(&str, &str); 4] = [
    (
        "~/.local/share/coral",
        "The images and the state of coral up.",
    ),
    (
        "~/.docker/config.json",
        "Credentials of registries, in Docker's format.",
    ),
    (
        "$XDG_RUNTIME_DIR/containers/auth.json",
        "The same, as podman and skopeo write them.",
    ),
    ("~/.kube/config", "How a cluster is reached."),
];

/// The name of a page, by the words of its subcommand.
pub(super) fn name(words: &str) -> String {
    let words = words.split_whitespace();
    std::iter::once("coral")
        .chain(words)
        .collect::<Vec<_>>()
        .join("-")
}

/// The page of a command.
pub(super) fn page(command: &Command, words: &str) -> io::Result<Vec<u8>> {
    let man = Man::new(command.clone()).title(name(words));
    let mut page = Vec::new();
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    let mut synopsis = Roff::new();
    synopsis.control("SH", ["SYNOPSIS"]);
    synopsis.text([roman(usage(command, words))]);
    synopsis.to_writer(&mut page)?;
    man.render_description_section(&mut page)?;
    man.render_options_section(&mut page)?;
    if command.get_subcommands().any(|s| !s.is_hide_set()) {
        man.render_subcommands_section(&mut page)?;
    }
    rest(command, words).to_writer(&mut page)?;
    man.render_version_section(&mut page)?;
    Ok(page)
}

/// The usage on one line, as in `--help`.
fn usage(command: &Command, words: &str) -> String {
    let usage = command.clone().render_usage().to_string();
    let usage = usage.trim_start_matches("Usage:").trim();
    // Without the name of the command, which it begins with.
    let rest = usage.find(['[', '<']).map_or("", |begin| &usage[begin..]);
    format!("coral {words} {rest}")
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ")
}

fn rest(command: &Command, words: &str) -> Roff {
    let mut roff = Roff::new();
    let build = (words == "build").then_some(EXIT_STATUS_OF_BUILD);
    let statuses = EXIT_STATUS.into_iter().chain(build);
    list(&mut roff, "EXIT STATUS", statuses);
    let variables: Vec<(String, String)> = command.get_arguments().filter_map(variable).collect();
    if !variables.is_empty() {
        list(&mut roff, "ENVIRONMENT", variables);
    }
    list(&mut roff, "FILES", FILES);
    let examples = examples(words);
    if !examples.is_empty() {
        roff.control("SH", ["EXAMPLES"]);
        for (purpose, line) in examples {
            roff.control("PP", []);
            roff.text([roman(format!("{purpose}:"))]);
            roff.control("PP", []);
            roff.control("RS", ["4"]);
            roff.control("nf", []);
            roff.text([roman(*line)]);
            roff.control("fi", []);
            roff.control("RE", []);
        }
    }
    if !words.is_empty() {
        roff.control("SH", ["SEE ALSO"]);
        roff.text([bold("coral"), roman("(1)")]);
    }
    roff
}

/// The environment variable of an argument, and the flag that it replaces.
fn variable(argument: &clap::Arg) -> Option<(String, String)> {
    let name = argument.get_env()?.to_string_lossy().into_owned();
    let stands_for = match argument.get_long() {
        Some(long) => format!("--{long}"),
        None => argument.get_value_names()?.first()?.to_string(),
    };
    let text =
        format!("The value of {stands_for} if it is not given. An empty value counts as not set.");
    Some((name, text))
}

fn list(
    roff: &mut Roff,
    title: &str,
    entries: impl IntoIterator<Item = (impl Into<String>, impl Into<String>)>,
) {
    roff.control("SH", [title]);
    for (term, text) in entries {
        roff.control("TP", []);
        roff.text([bold(term.into())]);
        roff.text([roman(text.into())]);
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;
    use crate::arguments::Arguments;

    fn page_of(words: &str) -> String {
        let mut command = Arguments::command();
        command.build();
        let mut found = &command;
        for word in words.split_whitespace() {
            found = found.find_subcommand(word).unwrap();
        }
        String::from_utf8(page(found, words).unwrap()).unwrap()
    }

    #[test]
    fn a_page_has_the_sections_that_people_look_for() {
        let page = page_of("registry serve");
        for section in [
            "NAME",
            "SYNOPSIS",
            "DESCRIPTION",
            "OPTIONS",
            "EXIT STATUS",
            "ENVIRONMENT",
            "FILES",
            "EXAMPLES",
            "SEE ALSO",
            "VERSION",
        ] {
            let quoted = format!(".SH \"{section}\"\n");
            let plain = format!(".SH {section}\n");
            assert!(
                page.contains(&quoted) || page.contains(&plain),
                "{section}: {page}"
            );
        }
        assert!(
            page.starts_with(".ie") || page.contains(".TH coral\\-registry\\-serve 1"),
            "{page}"
        );
        assert!(page.contains("CORAL_STORAGE"), "{page}");
    }

    #[test]
    fn the_synopsis_is_the_usage_line() {
        let mut command = Arguments::command();
        command.build();
        let copy = command.find_subcommand("copy").unwrap();
        assert_eq!(usage(copy, "copy"), "coral copy [OPTIONS] <SRC> <DST>");
    }

    #[test]
    fn only_a_build_may_end_with_another_exit_code() {
        assert!(page_of("build").contains("any other"));
        assert!(!page_of("copy").contains("any other"));
    }
}
