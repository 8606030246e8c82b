//! Failures of whole hosts: if a host cannot be reached, every image of it fails with the same
//! message, and one line is enough.

use std::collections::HashMap;

/// How many outages are remembered at most, since each message may be different.
const MOST: usize = 1000;

/// How much to print about a failure.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verbosity {
    /// All of it.
    Whole,
    /// Only that other images fail for the reason already printed.
    Others,
    Nothing,
}

/// The hosts that cannot be reached, by the error message.
#[derive(Debug, Default)]
pub(super) struct Outages(HashMap<String, Outage>);

#[derive(Debug)]
struct Outage {
    /// What failed first.
    first: String,
    others_told: bool,
}

/// Whether failures of this category are about a host and not about an image.
fn is_of_a_host(category: &str) -> bool {
    matches!(category, "dns" | "connect" | "tls")
}

impl Outages {
    /// `name`, an image or a repository, failed.
    pub(super) fn failed(&mut self, name: &str, category: &str, error: &str) -> Verbosity {
        if !is_of_a_host(category) {
            return Verbosity::Whole;
        }
        if let Some(outage) = self.0.get_mut(error) {
            if outage.first == name {
                return Verbosity::Whole;
            }
            return if std::mem::replace(&mut outage.others_told, true) {
                Verbosity::Nothing
            } else {
                Verbosity::Others
            };
        }
        if self.0.len() >= MOST {
            self.0.clear();
        }
        let outage = Outage {
            first: name.to_owned(),
            others_told: false,
        };
        self.0.insert(error.to_owned(), outage);
        Verbosity::Whole
    }

    /// `name` succeeded: the next failure of an image of its host, or of the destination, is
    /// printed again.
    pub(super) fn succeeded(&mut self, name: &str) {
        if !self.0.is_empty() {
            let host = host_of(name);
            self.0.retain(|error, outage| {
                host_of(&outage.first) != host && !error.starts_with("destination")
            });
        }
    }
}

fn host_of(name: &str) -> &str {
    name.split_once('/').map_or(name, |(host, _)| host)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOWN: &str = "source: quay.io: the name does not resolve";

    #[test]
    fn a_host_that_is_away_is_told_of_with_one_image_and_once_for_all_others() {
        let mut outages = Outages::default();
        let mut failed = |name| outages.failed(name, "dns", DOWN);
        assert_eq!(failed("quay.io/a:1"), Verbosity::Whole);
        assert_eq!(failed("quay.io/a:2"), Verbosity::Others);
        assert_eq!(failed("quay.io/a:3"), Verbosity::Nothing);
        assert_eq!(failed("quay.io/a:2"), Verbosity::Nothing);
        // How often in a row is worth a line now and then.
        assert_eq!(failed("quay.io/a:1"), Verbosity::Whole);
    }

    #[test]
    fn another_reason_another_host_and_what_is_of_one_image_are_told() {
        let mut outages = Outages::default();
        for (name, category, error) in [
            ("quay.io/a:1", "dns", DOWN),
            ("quay.io/a:2", "connect", "source: quay.io: cannot connect"),
            (
                "ghcr.io/a:1",
                "dns",
                "source: ghcr.io: the name does not resolve",
            ),
            ("quay.io/a:3", "not_found", "source: quay.io has no tag 3"),
            ("quay.io/b:3", "not_found", "source: quay.io has no tag 3"),
        ] {
            assert_eq!(
                outages.failed(name, category, error),
                Verbosity::Whole,
                "{name}"
            );
        }
    }

    #[test]
    fn a_host_that_was_back_is_told_of_again() {
        let mut outages = Outages::default();
        outages.failed("quay.io/a:1", "dns", DOWN);
        outages.failed("quay.io/a:2", "dns", DOWN);
        outages.succeeded("ghcr.io/a:1");
        assert_eq!(
            outages.failed("quay.io/a:3", "dns", DOWN),
            Verbosity::Nothing
        );
        outages.succeeded("quay.io/b:1");
        assert_eq!(outages.failed("quay.io/a:2", "dns", DOWN), Verbosity::Whole);
        // Whatever arrives shows that the destination is back.
        let away = "destination: harbor.example: cannot connect";
        outages.failed("quay.io/a:1", "connect", away);
        outages.succeeded("ghcr.io/a:1");
        let again = outages.failed("quay.io/a:2", "connect", away);
        assert_eq!(again, Verbosity::Whole);
    }

    #[test]
    fn words_that_differ_each_time_fill_no_memory() {
        let mut outages = Outages::default();
        for n in 0..5 * MOST {
            outages.failed("quay.io/a:1", "tls", &n.to_string());
        }
        assert!(outages.0.len() <= MOST);
    }
}
