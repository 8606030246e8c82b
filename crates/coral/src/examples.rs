//! Examples of each subcommand, for `--help` and the man pages.

use std::fmt::Write;

use clap::Command;

/// What the example does, and its command.
type Example = (&'static str, &'static str);

/// Examples by the words of the subcommand; without any, those of the program.
const EXAMPLES: &[(&str, &[Example])] = &[
    (
        "",
        &[
            (
                "Run a registry, and mirror into it the images that the YAML files of a folder select",
                "coral up mirrors",
            ),
            (
                "Copy one image to another registry",
                "coral copy quay.io/acme/web:1 reg.corp:5000/acme/web:1",
            ),
            (
                "Install Coral's kinds in a cluster",
                "coral crds | kubectl apply --server-side -f -",
            ),
        ],
    ),
    (
        "up",
        &[
            (
                "The registry and the mirrors of a folder of YAML files",
                "coral up mirrors",
            ),
            (
                "Reachable from other machines, with the images in another folder",
                "coral up mirrors --listen 0.0.0.0:5000 --data /srv/coral",
            ),
        ],
    ),
    (
        "registry serve",
        &[
            (
                "A registry for this machine",
                "coral registry serve --storage /srv/coral",
            ),
            (
                "With TLS and users; only the user ci may push, and only below team/",
                "coral registry serve --storage /srv/coral --listen 0.0.0.0:5000 --tls-cert tls.crt \
                 --tls-key tls.key --htpasswd users --allow-push 'ci=team/**'",
            ),
        ],
    ),
    (
        "registry import",
        &[
            (
                "What would be imported from the distribution registry",
                "coral registry import /var/lib/registry --storage /srv/coral --dry-run",
            ),
            (
                "Import with hard links, which take no extra space, on one file system",
                "coral registry import /var/lib/registry --storage /srv/coral --hard-links",
            ),
        ],
    ),
    (
        "registry gc",
        &[(
            "Delete the unused blobs of a stopped registry",
            "coral registry gc --storage /srv/coral",
        )],
    ),
    (
        "registry scrub",
        &[(
            "Report content that the disk has damaged, in the storage of a stopped registry",
            "coral registry scrub --storage /srv/coral --dry-run",
        )],
    ),
    (
        "mirror plan",
        &[
            ("What a pass would do", "coral mirror plan mirrors"),
            (
                "How many images would be copied",
                "coral mirror plan mirrors --output json | jq '.images | map(select(.action == \
                 \"WouldBeCopied\")) | length'",
            ),
        ],
    ),
    (
        "mirror run",
        &[
            (
                "One pass into the registry that runs at 127.0.0.1:5000",
                "coral mirror run mirrors",
            ),
            (
                "One pass into another registry with a private certificate authority",
                "coral mirror run mirrors --registry reg.corp:5000 --ca reg.corp:5000=ca.pem",
            ),
        ],
    ),
    (
        "mirror prune",
        &[(
            "Delete what vanished at the sources, after checking the plan",
            "coral mirror prune mirrors --confirm",
        )],
    ),
    (
        "copy",
        &[
            (
                "From one registry to another, with signatures",
                "coral copy quay.io/acme/web:1 reg.corp:5000/acme/web:1",
            ),
            (
                "Into a file, to carry it to another network",
                "coral copy quay.io/acme/web:1 oci-archive:web.tar:1",
            ),
        ],
    ),
    (
        "build",
        &[
            (
                "This folder, to the image team-a/shop:3 of the cluster's registry",
                "coral build . --namespace team-a --tag team-a/shop:3",
            ),
            (
                "The object that would be applied",
                "coral build . --namespace team-a --dry-run",
            ),
            (
                "Push to a registry outside the cluster as well, with the credential in the Secret ghcr",
                "coral build . --also-to ghcr.io/acme/shop:3=ghcr",
            ),
        ],
    ),
    (
        "image",
        &[(
            "Coral's own image as a file, for another machine",
            "coral image oci-archive:coral.tar:latest",
        )],
    ),
    (
        "grant",
        &[
            (
                "Let the controller read one Secret",
                "coral grant team-a quay-login | kubectl apply -f -",
            ),
            (
                "Let it run Registries in a namespace",
                "coral grant --registry team-a | kubectl apply -f -",
            ),
            (
                "Let it run builds in a namespace",
                "coral grant --builds team-a | kubectl apply -f -",
            ),
        ],
    ),
    (
        "uninstall",
        &[(
            "Remove Coral, with every image of its Registries",
            "coral uninstall --delete-data",
        )],
    ),
    (
        "doctor",
        &[(
            "Find out why a mirror makes no progress",
            "coral doctor mirrors",
        )],
    ),
    (
        "status",
        &[
            ("The state of the mirrors of `coral up`", "coral status"),
            (
                "The images that failed, at another address",
                "coral status 127.0.0.1:5001 --output json | jq '.mirrors[].failures'",
            ),
        ],
    ),
    (
        "crds",
        &[(
            "Install or update Coral's kinds",
            "coral crds | kubectl apply --server-side -f -",
        )],
    ),
    (
        "completions",
        &[(
            "For bash, effective in the next shell",
            "coral completions bash > ~/.local/share/bash-completion/completions/coral",
        )],
    ),
    (
        "man",
        &[(
            "Write the pages where man looks for a user's own",
            "coral man ~/.local/share/man/man1",
        )],
    ),
];

/// The examples of a subcommand, by its words without `coral`.
pub(crate) fn examples(words: &str) -> &'static [Example] {
    let found = EXAMPLES.iter().find(|(of, _)| *of == words);
    found.map_or(&[], |(_, examples)| examples)
}

/// A command, and those below it, with their examples at the end of the long help.
pub(crate) fn with_examples(command: Command) -> Command {
    below(command, "")
}

fn below(command: Command, words: &str) -> Command {
    let examples = examples(words);
    let command = if examples.is_empty() {
        command
    } else {
        command.after_long_help(help(examples))
    };
    command.mut_subcommands(|subcommand| {
        let words = format!("{words} {}", subcommand.get_name());
        below(subcommand, words.trim_start())
    })
}

fn help(examples: &[Example]) -> String {
    let mut text = String::from("Examples:");
    for (purpose, line) in examples {
        let _ = write!(text, "\n  # {purpose}\n  {line}");
    }
    text
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;
    use crate::arguments::Arguments;

    /// The words of a line as a shell reads them, up to a pipe or a file.
    fn words(line: &str) -> Vec<String> {
        let line = line
            .split([' '])
            .take_while(|word| !matches!(*word, "|" | ">"));
        line.map(|word| word.replace('\'', "")).collect()
    }

    #[test]
    fn every_example_is_understood_by_its_own_subcommand() {
        for (subcommand, examples) in EXAMPLES {
            for (_, line) in *examples {
                // A subcommand may need no argument.
                let begin = format!("coral {subcommand}");
                let begin = format!("{} ", begin.trim_end());
                assert!(format!("{line} ").starts_with(&begin), "{line}");
                let parsed = Arguments::command().try_get_matches_from(words(line));
                assert!(parsed.is_ok(), "{line}: {}", parsed.unwrap_err());
            }
        }
    }

    #[test]
    fn every_subcommand_that_a_person_types_has_an_example() {
        let mut command = with_examples(Arguments::command().disable_help_subcommand(true));
        command.build();
        assert!(
            command.get_after_long_help().is_some(),
            "the program has none"
        );
        let lacking = |command: &Command| {
            let of_person =
                !["controller", "agent", "webhook", "help"].contains(&command.get_name());
            of_person && !command.is_hide_set() && command.get_after_long_help().is_none()
        };
        for command in command.get_subcommands().filter(|c| !c.is_hide_set()) {
            let leaves: Vec<&Command> = if command.has_subcommands() {
                command.get_subcommands().collect()
            } else {
                vec![command]
            };
            for leaf in leaves {
                assert!(!lacking(leaf), "{}", leaf.get_name());
            }
        }
    }
}
