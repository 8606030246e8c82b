//! The registry that `coral up` runs, as its files describe it.

use std::collections::BTreeSet;

use coral_image::{Digest, Host};
use coral_registry::{Registry, Settings};
use coral_rt::{Connections, Serving, Tls};

use crate::load::LoadedRegistry;
use crate::terminal::Terminal;

/// The running registry, and which document it follows.
pub(crate) struct Embedded {
    registry: Registry,
    tls: Tls,
    connections: Connections,
    /// The registry's own names.
    names: Vec<Host>,
    /// The document that is in effect.
    document: Option<Followed>,
    /// What was last printed about it.
    told: Change,
}

impl Embedded {
    /// A registry without a document yet: open to every client, without TLS.
    pub(crate) fn new(registry: Registry, serving: &Serving, names: Vec<Host>) -> Self {
        registry.configure(Settings {
            names: names.clone(),
            ..Settings::default()
        });
        Self {
            registry,
            tls: serving.tls.clone(),
            connections: serving.connections.clone(),
            names,
            document: None,
            told: Change::None,
        }
    }

    pub(crate) fn tls(&self) -> &Tls {
        &self.tls
    }

    /// Applies the document, or keeps the previous one: neither a mistake nor the document of
    /// another registry opens it to every client.
    pub(crate) fn apply(
        &mut self,
        wanted: Option<LoadedRegistry>,
        broken: &BTreeSet<String>,
    ) -> Change {
        let named = wanted.as_ref().map(Followed::of);
        let change = match decide(self.document.as_ref(), named.as_ref(), broken) {
            Step::Stay => return Change::None,
            Step::Keep(change) => change,
            Step::Follow => {
                let is_new = self.document != named || self.told != Change::None;
                if let Some(wanted) = wanted {
                    self.follow(wanted);
                }
                self.document = named;
                self.told = Change::None;
                return if is_new {
                    Change::Changed
                } else {
                    Change::None
                };
            }
        };
        if self.told == change {
            return Change::None;
        }
        self.told = change;
        change
    }

    fn follow(&self, wanted: LoadedRegistry) {
        // Done for an unchanged document too, because layouts are reopened each time.
        self.registry.configure(Settings {
            names: self.names.clone(),
            ..wanted.settings
        });
        self.tls.set(wanted.certificate);
        self.connections.set_limit(wanted.connections);
    }
}

/// A document that is, or could be, in effect.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Followed {
    namespace: String,
    name: String,
    /// The file that defines it.
    origin: String,
    fingerprint: Digest,
}

impl Followed {
    fn of(registry: &LoadedRegistry) -> Self {
        Self {
            namespace: registry.namespace.clone(),
            name: registry.name.clone(),
            origin: registry.origin.clone(),
            fingerprint: registry.fingerprint,
        }
    }

    fn is(&self, other: &Self) -> bool {
        (&self.namespace, &self.name) == (&other.namespace, &other.name)
    }
}

/// How to react to the content of the files.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    /// Do nothing, at least for now: a file with a mistake may contain the document.
    Stay,
    /// Keep the document in effect although the files no longer contain it.
    Keep(Change),
    /// Apply them to the registry.
    Follow,
}

fn decide(
    followed: Option<&Followed>,
    wanted: Option<&Followed>,
    broken: &BTreeSet<String>,
) -> Step {
    match (followed, wanted) {
        (None, None) => Step::Stay,
        (_, Some(wanted)) if broken.contains(&wanted.origin) => Step::Stay,
        (None, Some(_)) => Step::Follow,
        (Some(followed), Some(wanted))
            if followed.is(wanted) && (followed.origin == wanted.origin || broken.is_empty()) =>
        {
            Step::Follow
        }
        (Some(_), _) if !broken.is_empty() => Step::Stay,
        (Some(_), None) => Step::Keep(Change::Gone),
        (Some(_), Some(_)) => Step::Keep(Change::Another),
    }
}

/// What happened to the registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    None,
    /// Its changed document is in effect.
    Changed,
    /// Its document is gone.
    Gone,
    /// Its document is gone, and there is one with another name.
    Another,
}

impl Change {
    pub(crate) fn tell(self, terminal: &Terminal) {
        match self {
            Self::None => {}
            Self::Changed => terminal.line("the changed Registry document is in effect"),
            Self::Gone => terminal.line(
                "warning: the Registry document is gone: its settings stay in effect until coral \
                 restarts; then the registry is open to every client, without TLS",
            ),
            Self::Another => terminal.line(
                "warning: the Registry document is gone, and there is one with another name: the \
                 settings of the first stay in effect until coral restarts; then the other one \
                 applies",
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document(name: &str, origin: &str, text: &[u8]) -> Followed {
        Followed {
            namespace: "default".to_owned(),
            name: name.to_owned(),
            origin: origin.to_owned(),
            fingerprint: Digest::sha256(text),
        }
    }

    fn step(followed: Option<&Followed>, wanted: Option<&Followed>, broken: &[&str]) -> Step {
        let broken = broken.iter().copied().map(str::to_owned).collect();
        decide(followed, wanted, &broken)
    }

    #[test]
    fn a_changed_or_moved_document_is_followed() {
        let old = document("local", "m.yaml", b"1");
        let changed = document("local", "m.yaml", b"2");
        let moved = document("local", "q.yaml", b"1");
        assert_eq!(step(None, Some(&old), &[]), Step::Follow);
        assert_eq!(step(None, Some(&old), &["x.yaml"]), Step::Follow);
        assert_eq!(step(Some(&old), Some(&changed), &["x.yaml"]), Step::Follow);
        assert_eq!(step(Some(&old), Some(&moved), &[]), Step::Follow);
    }

    #[test]
    fn a_document_that_cannot_be_read_or_is_gone_holds() {
        let old = document("local", "m.yaml", b"1");
        assert_eq!(step(None, None, &["m.yaml"]), Step::Stay);
        assert_eq!(step(Some(&old), None, &["m.yaml"]), Step::Stay);
        // Renamed, and broken at once.
        assert_eq!(step(Some(&old), None, &["q.yaml"]), Step::Stay);
        assert_eq!(step(Some(&old), None, &[]), Step::Keep(Change::Gone));
        assert_eq!(step(Some(&old), Some(&old), &["m.yaml"]), Step::Stay);
    }

    #[test]
    fn no_document_takes_the_place_of_one_that_holds() {
        let old = document("local", "m.yaml", b"1");
        let other = document("other", "a.yaml", b"2");
        let same = document("local", "a.yaml", b"2");
        let kept = Step::Keep(Change::Another);
        assert_eq!(step(Some(&old), Some(&other), &[]), kept);
        assert_eq!(step(Some(&old), Some(&other), &["m.yaml"]), Step::Stay);
        assert_eq!(step(Some(&old), Some(&same), &["m.yaml"]), Step::Stay);
        let elsewhere = Followed {
            namespace: "tenant".to_owned(),
            ..old.clone()
        };
        assert_eq!(step(Some(&old), Some(&elsewhere), &[]), kept);
    }
}
