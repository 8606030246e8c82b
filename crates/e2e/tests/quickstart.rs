//! The first minutes of a new user, word for word as the README has them.

use e2e::{coral, pending, run};

#[test]
#[ignore = "needs the release binary; run by cargo xtask test"]
fn help_names_every_subcommand() {
    pending("the command line", || {
        let help = run(coral().arg("--help")).succeeded();
        for word in ["up", "registry", "mirror", "copy"] {
            let listed = help
                .stdout
                .lines()
                .any(|line| line.trim_start().starts_with(word));
            assert!(listed, "no subcommand {word} in:\n{}", help.stdout);
        }
    });
}
