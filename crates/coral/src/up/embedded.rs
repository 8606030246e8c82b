//! The registry that `coral up` runs, as its files say.

use std::collections::BTreeSet;

use coral_image::Digest;
use coral_registry::{Connections, Registry, Serving, Settings, Tls};

use crate::load::LoadedRegistry;
use crate::terminal::Terminal;

/// The running registry, and which document it follows.
pub(crate) struct Embedded {
    registry: Registry,
    tls: Tls,
    connections: Connections,
    /// File and fingerprint of the document that holds.
    document: Option<(String, Digest)>,
}

impl Embedded {
    /// One that follows no document yet: open to everybody, without TLS.
    pub(crate) fn new(registry: Registry, serving: &Serving) -> Self {
        Self {
            registry,
            tls: serving.tls.clone(),
            connections: serving.connections.clone(),
            document: None,
        }
    }

    pub(crate) fn tls(&self) -> &Tls {
        &self.tls
    }

    /// Does as the document says, or as none says. While the file that it stood in is `broken`, the
    /// registry stays as it was: a slip must not open it to everybody.
    pub(crate) fn apply(
        &mut self,
        wanted: Option<LoadedRegistry>,
        broken: &BTreeSet<String>,
    ) -> Change {
        let origin = self.document.as_ref().map(|(origin, _)| origin);
        let is_broken = |file: &String| broken.contains(file);
        let Some(wanted) = wanted.filter(|wanted| !is_broken(&wanted.origin)) else {
            if origin.is_none_or(is_broken) {
                return Change::None;
            }
            self.registry.configure(Settings::default());
            self.tls.set(None);
            self.connections.limit(Connections::USUAL);
            self.document = None;
            return Change::Open;
        };
        let document = (wanted.origin, wanted.fingerprint);
        if self.document.as_ref() == Some(&document) && wanted.settings.layouts.is_empty() {
            return Change::None;
        }
        let is_new = self.document.as_ref() != Some(&document);
        self.registry.configure(wanted.settings);
        self.tls.set(wanted.certificate);
        self.connections.limit(wanted.connections);
        self.document = Some(document);
        if is_new {
            Change::Changed
        } else {
            Change::None
        }
    }
}

/// What became of the registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    None,
    /// It does as its document says now.
    Changed,
    /// Its document is gone.
    Open,
}

impl Change {
    pub(crate) fn tell(self, terminal: &Terminal) {
        match self {
            Self::None => {}
            Self::Changed => terminal.line("the registry follows its changed document"),
            Self::Open => terminal.line(
                "warning: the Registry document is gone: the registry is open to everybody, \
                 without TLS",
            ),
        }
    }
}
