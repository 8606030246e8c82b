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

/// A file that commands read or write unless a flag names another, and which commands do.
struct UsualFile {
    users: Users,
    path: &'static str,
    text: &'static str,
}

/// The commands that use a file.
enum Users {
    /// Those with this flag, which names another file.
    WithFlag(&'static str),
    /// Those with these words.
    Named(&'static [&'static str]),
}

impl Users {
    fn include(&self, command: &Command, words: &str) -> bool {
        match self {
            Self::WithFlag(flag) => command
                .get_arguments()
                .any(|it| it.get_long() == Some(*flag)),
            Self::Named(commands) => commands.contains(&words),
        }
    }
}

const ROLES: &[&str] = &["agent", "controller", "webhook"];

const USUAL_FILES: &[UsualFile] = &[
    UsualFile {
        users: Users::WithFlag("data"),
        path: "~/.local/share/coral",
        text: "The images and the state of coral up; below $XDG_DATA_HOME, if that is set.",
    },
    UsualFile {
        users: Users::WithFlag("docker-config"),
        path: "~/.docker/config.json",
        text: "Credentials of registries, in Docker's format; in $DOCKER_CONFIG, if that is set.",
    },
    UsualFile {
        users: Users::WithFlag("docker-config"),
        path: "$XDG_RUNTIME_DIR/containers/auth.json, ~/.config/containers/auth.json",
        text: "The same, as podman and skopeo write them. Without XDG_RUNTIME_DIR, the first is \
               /run/containers/UID/auth.json.",
    },
    UsualFile {
        users: Users::WithFlag("kubeconfig"),
        path: "~/.kube/config",
        text: "How a cluster is reached, unless KUBECONFIG names another file.",
    },
    UsualFile {
        users: Users::Named(ROLES),
        path: "/var/run/secrets/kubernetes.io/serviceaccount",
        text: "How the cluster is reached in a pod; outside of one, KUBECONFIG or ~/.kube/config.",
    },
    UsualFile {
        users: Users::WithFlag("runtime"),
        path: "/run/containerd/containerd.sock",
        text: "The socket of the node's containerd.",
    },
    UsualFile {
        users: Users::WithFlag("certs-dir"),
        path: "/etc/containerd/certs.d",
        text: "Where containerd finds its registries, usually; the agent writes a hosts.toml for \
               each registry, and keeps what it found there.",
    },
    UsualFile {
        users: Users::WithFlag("coral-dir"),
        path: "/etc/coral/ca.crt",
        text: "The certificate of Coral's CA.",
    },
    UsualFile {
        users: Users::Named(&["webhook"]),
        path: "/tls/tls.crt, /tls/tls.key",
        text: "The certificate of the webhook and its private key.",
    },
    UsualFile {
        users: Users::Named(&["build"]),
        path: "Dockerfile, Containerfile, .dockerignore",
        text: "In the folder: what is built, and what of the folder is not sent.",
    },
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
    let files = USUAL_FILES.iter();
    let files = files.filter(|file| file.users.include(command, words));
    let files: Vec<_> = files.map(|file| (file.path, file.text)).collect();
    if !files.is_empty() {
        list(&mut roff, "FILES", files);
    }
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
        let page = page_of("up");
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
            page.starts_with(".ie") || page.contains(".TH coral\\-up 1"),
            "{page}"
        );
        assert!(page.contains("CORAL_DATA"), "{page}");
    }

    #[test]
    fn the_synopsis_is_the_usage_line() {
        let mut command = Arguments::command();
        command.build();
        let copy = command.find_subcommand("copy").unwrap();
        assert_eq!(usage(copy, "copy"), "coral copy [OPTIONS] <SRC> <DST>");
    }

    /// The paths below FILES on the page of a command.
    fn files_of(words: &str) -> Vec<&'static str> {
        let page = page_of(words);
        let Some((_, files)) = page.split_once(".SH FILES\n") else {
            return vec![];
        };
        let files = files.split(".SH ").next().unwrap().replace("\\-", "-");
        let paths = USUAL_FILES.iter().map(|file| file.path);
        let is_term = |path: &&str| files.contains(&format!("\\fB{path}\\fR"));
        paths.filter(is_term).collect()
    }

    /// Regression: every page listed the same four files.
    #[test]
    fn a_page_lists_only_the_files_that_its_command_uses() {
        const DATA: &str = "~/.local/share/coral";
        const DOCKER: &str = "~/.docker/config.json";
        const PODMAN: &str =
            "$XDG_RUNTIME_DIR/containers/auth.json, ~/.config/containers/auth.json";
        const KUBE: &str = "~/.kube/config";
        const ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
        for (words, expected) in [
            ("", &[] as &[_]),
            ("registry serve", &[DOCKER, PODMAN]),
            ("registry gc", &[]),
            ("mirror", &[]),
            ("crds", &[]),
            ("completions", &[]),
            ("up", &[DATA, DOCKER, PODMAN]),
            ("doctor", &[DATA, DOCKER, PODMAN]),
            ("copy", &[DOCKER, PODMAN]),
            ("uninstall", &[KUBE]),
            ("controller", &[ACCOUNT]),
            ("webhook", &[ACCOUNT, "/tls/tls.crt, /tls/tls.key"]),
        ] {
            assert_eq!(files_of(words), expected, "{words}");
        }
        assert!(files_of("agent").contains(&"/run/containerd/containerd.sock"));
        assert!(files_of("build").contains(&KUBE));
    }

    #[test]
    fn each_usual_file_is_on_a_page() {
        let mut command = Arguments::command();
        command.build();
        let mut pages = vec![(String::new(), &command)];
        let mut used = vec![false; USUAL_FILES.len()];
        while let Some((words, command)) = pages.pop() {
            for (file, used) in USUAL_FILES.iter().zip(&mut used) {
                *used |= file.users.include(command, &words);
            }
            pages.extend(
                command
                    .get_subcommands()
                    .map(|sub| (format!("{words} {}", sub.get_name()).trim().to_owned(), sub)),
            );
        }
        assert!(used.iter().all(|it| *it), "{used:?}");
    }

    #[test]
    fn only_a_build_may_end_with_another_exit_code() {
        assert!(page_of("build").contains("any other"));
        assert!(!page_of("copy").contains("any other"));
    }
}
