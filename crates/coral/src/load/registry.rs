//! The registry that files describe.

use coral_api::documents::{Document, DocumentError, Object};
use coral_api::{
    AuthSettings, GrantSettings, Grantees, LimitSettings, Registry, SecretBytes, metadata,
};
use coral_distribution::LayoutFiles;
use coral_image::Digest;
use coral_image::error_chain;
use coral_registry::{
    Access, CollectionSettings, Grant, Grants, Htpasswd, LayoutFolder, Limits, MinFree,
    PathPatterns, ScrubSettings, Settings, SpaceBounds, Who, Writes,
};
use coral_rt::{CertificatePair, Connections};
use jiff::Timestamp;

use super::secrets::Secrets;
use super::{error_at, texts};

/// A registry with everything that it refers to.
#[derive(Debug)]
pub(crate) struct LoadedRegistry {
    pub(crate) namespace: String,
    pub(crate) name: String,
    /// The file that defines it.
    pub(crate) origin: String,
    pub(crate) line: usize,
    pub(crate) settings: Settings,
    pub(crate) certificate: Option<CertificatePair>,
    pub(crate) connections: usize,
    /// Grants without effect.
    idle_grants: Vec<String>,
    /// Changes whenever the registry or a Secret that it names changes.
    pub(crate) fingerprint: Digest,
}

impl LoadedRegistry {
    /// Warnings for the person at the terminal.
    pub(super) fn warnings(&self, now: Timestamp) -> impl Iterator<Item = String> {
        let pair = self.certificate.as_ref();
        let warning = pair.and_then(|pair| crate::registry::certificate::warning(pair, now));
        let place = format!("{}:{}: Registry {:?}", self.origin, self.line, self.name);
        let certificate = warning.map(|warning| format!("spec.tls.secretName: {warning}"));
        let all = certificate
            .into_iter()
            .chain(self.idle_grants.iter().cloned());
        all.map(move |warning| format!("{place}: {warning}"))
    }

    /// Its name and where it is defined.
    pub(super) fn place(&self) -> String {
        let Self {
            name, origin, line, ..
        } = self;
        format!("{name:?} ({origin}:{line})")
    }
}

/// The one registry among the documents. If there are several, none is used: the order of the files
/// does not show which one is meant.
pub(super) fn load(
    documents: &[Document],
    secrets: &Secrets<'_>,
) -> (Option<LoadedRegistry>, Vec<DocumentError>) {
    let found = documents.iter().filter_map(|document| {
        let Object::Registry(registry) = &document.object else {
            return None;
        };
        Some((document, registry.as_ref()))
    });
    let registries: Vec<(&Document, &Registry)> = found.collect();
    let [(document, registry)] = registries[..] else {
        return (None, too_many(&registries));
    };
    let loading = RegistryLoader {
        registry,
        secrets,
        seen: format!("{registry:?}").into_bytes(),
    };
    match loading.load(document) {
        Ok(loaded) => (Some(loaded), vec![]),
        Err(problems) => {
            let wrong = |problem| error_at(document, title(registry), problem);
            (None, problems.into_iter().map(wrong).collect())
        }
    }
}

/// The error of each registry, since there are several.
fn too_many(registries: &[(&Document, &Registry)]) -> Vec<DocumentError> {
    let wrong = |(i, (document, registry)): (usize, &(&Document, &Registry))| {
        let (other, _) = registries[usize::from(i == 0)];
        let message = format!(
            "there is another Registry, at {}:{}, and only one is run here: remove one of them; \
             neither is followed",
            other.origin, other.line
        );
        error_at(document, title(registry), message)
    };
    registries.iter().enumerate().map(wrong).collect()
}

fn title(registry: &Registry) -> String {
    format!("Registry {:?}", metadata::name(&registry.metadata))
}

struct RegistryLoader<'a> {
    registry: &'a Registry,
    secrets: &'a Secrets<'a>,
    /// Everything the registry depends on, for its fingerprint.
    seen: Vec<u8>,
}

impl RegistryLoader<'_> {
    fn load(mut self, document: &Document) -> Result<LoadedRegistry, Vec<String>> {
        let settings = self
            .registry
            .settings()
            .map_err(|problems| texts(&problems))?;
        let mut problems = vec![];
        let mut keep = |problem: String| problems.push(problem);
        let certificate = settings
            .tls_secret
            .as_deref()
            .and_then(|name| self.certificate(name).map_err(&mut keep).ok());
        let access = match &settings.auth {
            None => Some(Access::Open),
            Some(auth) => self.access(auth).map_err(&mut keep).ok(),
        };
        let mut read_only = vec![];
        for (i, layout) in settings.layouts.iter().enumerate() {
            let mut files = LayoutFiles::new(&layout.folder);
            if let Some(blobs) = &layout.blobs {
                files = files.with_blobs(blobs);
            }
            match LayoutFolder::open(layout.repository.clone(), files) {
                Ok(layout) => read_only.push(layout.into()),
                Err(error) => {
                    let field = format!("spec.imageVolumes[{i}].hostPath.path");
                    keep(format!("{field}: {}", error_chain(&error)));
                }
            }
        }
        let Some(access) = access.filter(|_| problems.is_empty()) else {
            return Err(problems);
        };
        let idle_grants = settings
            .auth
            .as_ref()
            .map_or_else(Vec::new, |auth| idle_grants(auth, &access));
        Ok(LoadedRegistry {
            namespace: self.namespace().to_owned(),
            name: metadata::name(&self.registry.metadata).to_owned(),
            origin: document.origin.clone(),
            line: document.line,
            settings: Settings {
                access,
                token_keys: None,
                writes: if settings.read_only {
                    Writes::Refused
                } else {
                    Writes::Allowed
                },
                limits: limits(&settings.limits),
                collection: collection(&settings.collection),
                scrub: scrub(settings.scrub),
                space: space(settings.space),
                read_only_sources: read_only.into(),
                names: vec![],
            },
            certificate,
            connections: settings
                .limits
                .connections
                .map_or(Connections::DEFAULT, |most| {
                    usize::try_from(most).unwrap_or(usize::MAX)
                }),
            idle_grants,
            fingerprint: Digest::sha256(&self.seen),
        })
    }

    fn namespace(&self) -> &str {
        metadata::namespace(&self.registry.metadata)
    }

    /// The value that `take` reads from a Secret in the registry's namespace.
    fn secret<'s, T>(
        &'s self,
        field: &str,
        name: &str,
        take: impl Fn(&'s coral_api::Secret) -> Result<T, coral_api::SecretError>,
    ) -> Result<T, String> {
        let namespace = self.namespace();
        let found = self.secrets.get(namespace, name);
        let secret = found.map_err(|problem| format!("{field}: {problem}"))?;
        take(secret).map_err(|error| format!("{field}: {error}"))
    }

    fn certificate(&mut self, name: &str) -> Result<CertificatePair, String> {
        const FIELD: &str = "spec.tls.secretName";
        let pair = self.secret(FIELD, name, coral_api::Secret::certificate)?;
        let [certificate, key] = pair.map(SecretBytes::expose);
        let parsed = CertificatePair::from_pem(certificate, key)
            .map_err(|error| format!("{FIELD}: Secret {name:?}: {}", error_chain(&error)))?;
        let seen = [certificate, key].concat();
        self.seen.extend(seen);
        Ok(parsed)
    }

    fn access(&mut self, auth: &AuthSettings) -> Result<Access, String> {
        const FIELD: &str = "spec.auth.htpasswd.secretName";
        let name = &auth.htpasswd_secret;
        let bytes = self.secret(FIELD, name, coral_api::Secret::htpasswd)?;
        let bytes = bytes.expose().to_vec();
        let wrong = |error: &dyn std::fmt::Display| format!("{FIELD}: Secret {name:?}: {error}");
        let users = Htpasswd::parse(&String::from_utf8_lossy(&bytes));
        let users = users.map_err(|error| wrong(&error))?;
        let pull = grants(auth.pull.as_deref())?;
        let push = grants(auth.push.as_deref())?;
        self.seen.extend(bytes);
        Ok(Access::Granted(Grants { users, pull, push }))
    }
}

fn space(settings: coral_api::SpaceSettings) -> SpaceBounds {
    SpaceBounds {
        limit: settings.limit,
        min_free: settings.min_free.map_or(MinFree::Usual, MinFree::Bytes),
    }
}

/// Grants to users that the Secret does not have. They are not errors: removing a user from the
/// Secret has to take effect at once.
fn idle_grants(auth: &AuthSettings, access: &Access) -> Vec<String> {
    let Access::Granted(Grants { users, .. }) = access else {
        return vec![];
    };
    let secret = &auth.htpasswd_secret;
    let odd = users.warnings().into_iter();
    let odd = odd.map(|odd| format!("spec.auth.htpasswd.secretName: Secret {secret:?}: {odd}"));
    if users.is_empty() {
        let empty = format!(
            "spec.auth.htpasswd.secretName: Secret {secret:?} has no user, so every login is refused"
        );
        return odd.chain([empty]).collect();
    }
    let rules = auth.pull.iter().flatten().chain(auth.push.iter().flatten());
    let mut warnings: Vec<String> = odd.collect();
    for rule in rules {
        if let Grantees::Users(names) = &rule.grantees {
            let unknown = names.iter().filter(|name| !users.has(name));
            warnings.extend(unknown.map(|name| {
                let path = &rule.path;
                format!(
                    "{path}.users: the grant to {name:?} has no effect: there is no user {name:?} \
                     in Secret {secret:?}"
                )
            }));
        }
    }
    warnings
}

/// The grants of the rules; without rules, every user may do everything.
fn grants(rules: Option<&[GrantSettings]>) -> Result<Vec<Grant>, String> {
    let Some(rules) = rules else {
        let (who, paths) = (Who::EveryUser, PathPatterns::everything());
        return Ok(vec![Grant { who, paths }]);
    };
    rules.iter().map(grant).collect()
}

fn grant(rule: &GrantSettings) -> Result<Grant, String> {
    let who = match &rule.grantees {
        Grantees::Anybody => Who::Anybody,
        Grantees::EveryUser => Who::EveryUser,
        Grantees::Users(names) => Who::Users(names.clone()),
    };
    let paths = if rule.patterns.is_empty() {
        PathPatterns::everything()
    } else {
        PathPatterns::parse(&rule.patterns)
            .map_err(|error| format!("{}.paths: {error}", rule.path))?
    };
    Ok(Grant { who, paths })
}

fn limits(settings: &LimitSettings) -> Limits {
    let usual = Limits::default();
    Limits {
        blob_bytes: settings.blob_bytes,
        open_uploads: settings.open_uploads.map_or(usual.open_uploads, u64::from),
        upload_expiry: settings.upload_expiry.unwrap_or(usual.upload_expiry),
        ..usual
    }
}

fn scrub(settings: coral_api::ScrubSettings) -> ScrubSettings {
    let usual = ScrubSettings::default();
    ScrubSettings {
        interval: settings.interval.unwrap_or(usual.interval),
        bandwidth: settings.bandwidth.unwrap_or(usual.bandwidth),
        ..usual
    }
}

fn collection(settings: &coral_api::CollectionSettings) -> CollectionSettings {
    let usual = CollectionSettings::default();
    CollectionSettings {
        interval: settings.interval.unwrap_or(usual.interval),
        grace: settings.grace.unwrap_or(usual.grace),
        untagged: settings.untagged,
        ..usual
    }
}
