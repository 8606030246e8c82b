//! The arguments of `coral registry`, and the settings that they describe.

mod access;
mod values;

use std::io::Read as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use clap::builder::BoolishValueParser;
use coral_distribution::LayoutFiles;
use coral_image::error_chain;
use coral_image::{Host, RepositoryPath};
use coral_registry::{
    Access, CollectionSettings, Grants, LayoutFolder, Limits, MinFree, PublicPaths, ScrubSettings,
    Settings, SpaceBounds, TOKEN_USER, TokenKeys, Writes,
};
use coral_rt::{CertificatePair, Connections};

use crate::client::ClientArguments;
use crate::failure::Failure;
use crate::load::open;
use crate::pull_through::PullThroughArguments;
use crate::values::{address, host};
use values::{Rule, age, bandwidth, duration, interval, layout, rule, scrub_interval, size};

/// Largest file of users, certificates or keys that is read.
const MOST_BYTES: u64 = 4 * 1024 * 1024;

#[derive(Debug, Args)]
pub(crate) struct ServeArguments {
    /// Address to listen on; port 0 picks a free one
    #[arg(long, env = "CORAL_LISTEN", default_value = "127.0.0.1:5000", value_name = "ADDR", value_parser = address)]
    pub(crate) listen: SocketAddr,
    /// Folder for the content; created if it is missing
    #[arg(long, env = "CORAL_STORAGE", value_name = "DIR")]
    pub(crate) storage: PathBuf,
    #[command(flatten)]
    pub(crate) registry: RegistryArguments,
    #[command(flatten)]
    pub(crate) pull_through: PullThroughArguments,
    #[command(flatten)]
    pub(crate) client: ClientArguments,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct RegistryArguments {
    /// File of users with bcrypt hashes, as `htpasswd -B` writes it; reloaded when it changes.
    /// Without it and without `--token-keys`, every client may do everything
    #[arg(
        long,
        env = "CORAL_HTPASSWD",
        value_name = "FILE",
        help_heading = "Access"
    )]
    htpasswd: Option<PathBuf>,
    /// Let anonymous clients read everything, or only what the patterns match
    #[arg(
        long,
        env = "CORAL_ANONYMOUS_READ",
        value_name = "PATTERN",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true",
        value_delimiter = ',',
        requires = "htpasswd",
        help_heading = "Access"
    )]
    anonymous_read: Vec<String>,
    /// Let a user read what a pattern matches (`team/app`, `team/*`, `team/**`); the user `*` means
    /// every user. Without it, every user may read everything
    #[arg(long, env = "CORAL_ALLOW_PULL", value_name = "USER=PATTERN", value_parser = rule, value_delimiter = ',', requires = "htpasswd", help_heading = "Access")]
    allow_pull: Vec<Rule>,
    /// Let a user read, write and delete what a pattern matches; the user `*` means every user.
    /// Without it, every user may write everywhere
    #[arg(long, env = "CORAL_ALLOW_PUSH", value_name = "USER=PATTERN", value_parser = rule, value_delimiter = ',', requires = "htpasswd", help_heading = "Access")]
    allow_push: Vec<Rule>,
    /// File of Ed25519 public keys (PEM); reloaded when it changes. The registry accepts tokens
    /// signed with these keys, as the password of the user `token` or as `Authorization: Bearer`. A
    /// token grants exactly the rights that it names, and must be issued for one of the names given
    /// with `--host`
    #[arg(
        long,
        env = "CORAL_TOKEN_KEYS",
        value_name = "FILE",
        requires = "host",
        help_heading = "Access"
    )]
    token_keys: Option<PathBuf>,
    /// Refuse all writes
    #[arg(long, env = "CORAL_READ_ONLY", value_parser = BoolishValueParser::new(), help_heading = "Access")]
    read_only: bool,
    /// File with the certificate and its chain (PEM); reloaded when it changes. With it, the
    /// registry serves HTTPS
    #[arg(
        long,
        env = "CORAL_TLS_CERT",
        value_name = "FILE",
        requires = "tls_key",
        help_heading = "TLS"
    )]
    tls_cert: Option<PathBuf>,
    /// File with the certificate's private key (PEM)
    #[arg(
        long,
        env = "CORAL_TLS_KEY",
        value_name = "FILE",
        requires = "tls_cert",
        help_heading = "TLS"
    )]
    tls_key: Option<PathBuf>,
    /// Serve the OCI image layout in a folder as a read-only repository
    #[arg(long, env = "CORAL_LAYOUT", value_name = "REPOSITORY=DIR", value_parser = layout, value_delimiter = ',')]
    layout: Vec<(RepositoryPath, PathBuf)>,
    /// Folder with the blobs of a `--layout` that has none of its own, such as a container
    /// runtime's content store; symbolic links inside a layout are not followed
    #[arg(long, env = "CORAL_LAYOUT_BLOBS", value_name = "REPOSITORY=DIR", value_parser = layout, value_delimiter = ',', requires = "layout")]
    layout_blobs: Vec<(RepositoryPath, PathBuf)>,
    /// File that lists the repositories that anonymous clients may read, as JSON: `{"generation":
    /// 1, "paths": ["docker.io/library/nginx"]}`; reloaded when it changes. `/coral/v1/public`
    /// returns the active generation
    #[arg(
        long,
        env = "CORAL_PUBLIC",
        value_name = "FILE",
        help_heading = "Access"
    )]
    public: Option<PathBuf>,
    /// Name of this registry, such as `coral.coral-system.svc:5000`. A container runtime names the
    /// host whose images it wants in `ns=`. If that is one of these names, the registry uses the
    /// path as it is; otherwise it puts the host, such as `docker.io/`, before the path. On a
    /// loopback address, without TLS and without users, the registry answers only requests for `localhost`,
    /// loopback addresses and these names
    #[arg(long, env = "CORAL_HOST", value_name = "HOST[:PORT]", value_parser = host, value_delimiter = ',')]
    host: Vec<Host>,
    /// Largest blob that may be pushed, such as 10Gi [default: no limit but the storage]
    #[arg(long, env = "CORAL_MAX_BLOB_SIZE", value_name = "SIZE", value_parser = size, help_heading = "Limits")]
    max_blob_size: Option<u64>,
    /// Most bytes that content and open uploads may take together, such as 100Gi; pushes beyond
    /// that are refused with 507 [default: as many as the disk holds]
    #[arg(long, env = "CORAL_STORAGE_LIMIT", value_name = "SIZE", value_parser = size, help_heading = "Limits")]
    storage_limit: Option<u64>,
    /// Bytes to keep free on the disk, such as 5Gi; a push that would use them is refused with 507.
    /// 0 keeps none free [default: 5 % of the disk, at most 1Gi]
    #[arg(long, env = "CORAL_STORAGE_MIN_FREE", value_name = "SIZE", value_parser = size, help_heading = "Limits")]
    storage_min_free: Option<u64>,
    /// How many uploads may be open at once
    #[arg(
        long,
        env = "CORAL_MAX_OPEN_UPLOADS",
        value_name = "N",
        default_value_t = Limits::default().open_uploads,
        help_heading = "Limits"
    )]
    max_open_uploads: u64,
    /// How long an open upload is kept after its last bytes arrived
    #[arg(long, env = "CORAL_UPLOAD_EXPIRY", value_name = "DURATION", default_value = "24h", value_parser = duration, help_heading = "Limits")]
    upload_expiry: Duration,
    /// How many connections are served at once; further ones are refused with 503
    #[arg(
        long,
        env = "CORAL_MAX_CONNECTIONS",
        value_name = "N",
        default_value_t = 4096,
        value_parser = clap::value_parser!(u32).range(1..),
        help_heading = "Limits"
    )]
    max_connections: u32,
    /// How many connections one address may have; clients behind one proxy share its address
    /// [default: a quarter of --max-connections, but at least 16]
    #[arg(
        long,
        env = "CORAL_MAX_CONNECTIONS_PER_ADDRESS",
        value_name = "N",
        value_parser = clap::value_parser!(u32).range(1..),
        help_heading = "Limits"
    )]
    max_connections_per_address: Option<u32>,
    /// Time between two collections of unused blobs
    #[arg(long, env = "CORAL_GC_INTERVAL", value_name = "DURATION", default_value = "1h", value_parser = interval, help_heading = "Garbage collection")]
    gc_interval: Duration,
    #[command(flatten)]
    collection: CollectionArguments,
    /// Time between the starts of two scrubs, such as 7d. A scrub reads all content and compares it
    /// with its digests
    #[arg(long, env = "CORAL_SCRUB_INTERVAL", value_name = "AGE", default_value = "7d", value_parser = scrub_interval, help_heading = "Scrub")]
    scrub_interval: Duration,
    /// Most bytes per second that a scrub reads, such as 50Mi; 0 turns scrubbing off
    #[arg(long, env = "CORAL_SCRUB_BANDWIDTH", value_name = "QUANTITY", default_value = "10Mi", value_parser = size, help_heading = "Scrub")]
    scrub_bandwidth: u64,
}

/// What a collection may delete.
#[derive(Debug, Clone, Args)]
pub(crate) struct CollectionArguments {
    /// How long an unused blob is kept after a client was last told that it exists
    #[arg(long = "gc-grace", env = "CORAL_GC_GRACE", value_name = "DURATION", default_value = "24h", value_parser = duration, help_heading = "Garbage collection")]
    pub(super) grace: Duration,
    /// How long to keep a manifest that no tag, index or referrer reaches, such as 7d [default:
    /// forever]
    #[arg(long = "gc-untagged", env = "CORAL_GC_UNTAGGED", value_name = "AGE", value_parser = age, help_heading = "Garbage collection")]
    pub(super) untagged: Option<Duration>,
}

#[derive(Debug, Args)]
pub(crate) struct CollectArguments {
    /// Storage folder; no registry may be serving it
    #[arg(long, env = "CORAL_STORAGE", value_name = "DIR")]
    pub(super) storage: PathBuf,
    /// Report what would be deleted, and delete nothing
    #[arg(long)]
    pub(super) dry_run: bool,
    #[command(flatten)]
    pub(super) collection: CollectionArguments,
}

#[derive(Debug, Args)]
pub(crate) struct ImportArguments {
    /// Storage folder of the distribution registry; contains docker/registry/v2
    #[arg(value_name = "DIR")]
    pub(super) folder: PathBuf,
    /// Storage folder to import into, created if it is missing; no registry may be serving it
    #[arg(long, env = "CORAL_STORAGE", value_name = "DIR")]
    pub(super) storage: PathBuf,
    /// Report what would be imported and what cannot be, and import nothing; digests of blobs are
    /// not checked
    #[arg(long)]
    pub(super) dry_run: bool,
    /// Hard-link the files of blobs instead of copying them, if both folders are on one file
    /// system; the other registry must not be used afterwards
    #[arg(long)]
    pub(super) hard_links: bool,
    /// Move tags that already name another image in --storage [default: they stay, and are
    /// reported]
    #[arg(long)]
    pub(super) move_tags: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ScrubArguments {
    /// Storage folder; no registry may be serving it
    #[arg(long, env = "CORAL_STORAGE", value_name = "DIR")]
    pub(super) storage: PathBuf,
    /// Report what is damaged and move nothing; an interrupted round is left as it is
    #[arg(long)]
    pub(super) dry_run: bool,
    /// Most bytes per second that are read, such as 50Mi [default: no limit]
    #[arg(long, value_name = "QUANTITY", value_parser = bandwidth)]
    pub(super) bandwidth: Option<u64>,
}

impl RegistryArguments {
    /// The settings that the flags and their files describe now, with warnings about them.
    pub(super) fn settings(&self) -> Result<(Settings, Vec<String>), Failure> {
        let (access, warnings) = self.access()?;
        let settings = Settings {
            access,
            // Read separately from the rest: without the file no token is accepted.
            token_keys: self.token_keys.is_some().then(TokenKeys::default),
            writes: if self.read_only {
                Writes::Refused
            } else {
                Writes::Allowed
            },
            limits: Limits {
                blob_bytes: self.max_blob_size,
                open_uploads: self.max_open_uploads,
                upload_expiry: self.upload_expiry,
                ..Limits::default()
            },
            collection: CollectionSettings {
                // Read-only is also for copying the folder meanwhile: nothing may be deleted from
                // it.
                is_on: !self.read_only,
                interval: self.gc_interval,
                grace: self.collection.grace,
                untagged: self.collection.untagged,
            },
            scrub: ScrubSettings {
                interval: self.scrub_interval,
                bandwidth: self.scrub_bandwidth,
                report_only: self.read_only,
            },
            space: SpaceBounds {
                limit: self.storage_limit,
                min_free: self.storage_min_free.map_or(MinFree::Usual, MinFree::Bytes),
            },
            read_only_sources: self.layouts()?.into_iter().map(Into::into).collect(),
            names: self.host.clone(),
        };
        Ok((settings, warnings))
    }

    pub(super) fn is_read_only(&self) -> bool {
        self.read_only
    }

    /// The registry's own names.
    pub(super) fn names(&self) -> &[Host] {
        &self.host
    }

    /// The keys that are in the file now; none without a file.
    pub(super) fn token_keys(&self) -> Result<Option<TokenKeys>, Failure> {
        let Some(file) = &self.token_keys else {
            return Ok(None);
        };
        let keys = TokenKeys::from_pem(&read("--token-keys", file)?);
        keys.map(Some)
            .map_err(|error| Failure::input(format!("--token-keys {}: {error}", file.display())))
    }

    pub(super) fn token_keys_file(&self) -> Option<&Path> {
        self.token_keys.as_deref()
    }

    /// Grants without effect. They are not errors: removing a user from the file has to take effect
    /// at once and must not keep the registry from starting.
    fn warnings(&self, access: &Access) -> Vec<String> {
        let Access::Granted(Grants { users, .. }) = access else {
            return vec![];
        };
        if self.htpasswd.is_none() {
            return vec![];
        }
        let odd = users.warnings().into_iter();
        let odd = odd.map(|odd| format!("--htpasswd: {odd}"));
        if users.is_empty() {
            let empty = "--htpasswd: the file has no user, so every login is refused".to_owned();
            return odd.chain([empty]).collect();
        }
        let pull = self.allow_pull.iter().map(|rule| ("--allow-pull", rule));
        let push = self.allow_push.iter().map(|rule| ("--allow-push", rule));
        let unknown = pull
            .chain(push)
            .filter(|(_, rule)| rule.user != "*" && !users.has(&rule.user));
        let warning = |(flag, Rule { user, pattern }): (&str, &Rule)| {
            format!(
                "{flag} {user}={pattern} has no effect: there is no user {user:?} in --htpasswd"
            )
        };
        let mut warnings: Vec<String> = odd.chain(unknown.map(warning)).collect();
        if self.token_keys.is_some() && users.has(TOKEN_USER) {
            warnings.push(format!(
                "--htpasswd: the password of {TOKEN_USER:?} has no effect: with --token-keys that \
                 user sends a signed token"
            ));
        }
        warnings
    }

    /// The certificate, if TLS is wanted.
    pub(super) fn certificate(&self) -> Result<Option<CertificatePair>, Failure> {
        let (Some(certificate), Some(key)) = (&self.tls_cert, &self.tls_key) else {
            return Ok(None);
        };
        let pair =
            CertificatePair::from_pem(&read("--tls-cert", certificate)?, &read("--tls-key", key)?);
        pair.map(Some).map_err(|error| {
            let (certificate, key) = (certificate.display(), key.display());
            let error = error_chain(&error);
            Failure::input(format!("--tls-cert {certificate} --tls-key {key}: {error}"))
        })
    }

    /// The public paths that the file lists now; none without a file.
    pub(super) fn public(&self) -> Result<PublicPaths, Failure> {
        let Some(file) = &self.public else {
            return Ok(PublicPaths::default());
        };
        let bytes = read("--public", file)?;
        PublicPaths::parse(&bytes).map_err(|error| {
            Failure::input(format!(
                "--public {}: {}",
                file.display(),
                error_chain(&error)
            ))
        })
    }

    pub(super) fn public_file(&self) -> Option<&Path> {
        self.public.as_deref()
    }

    pub(super) fn connections(&self) -> Connections {
        let number = |limit| usize::try_from(limit).unwrap_or(usize::MAX);
        let connections = Connections::at_most(number(self.max_connections));
        connections.set_limit_per_address(self.max_connections_per_address.map(number));
        connections
    }

    pub(super) fn users_file(&self) -> Option<&Path> {
        self.htpasswd.as_deref()
    }

    pub(super) fn certificate_files(&self) -> Option<[&Path; 2]> {
        Some([self.tls_cert.as_deref()?, self.tls_key.as_deref()?])
    }

    fn layouts(&self) -> Result<Vec<LayoutFolder>, Failure> {
        let is_served = |path| self.layout.iter().any(|(served, _)| served == path);
        if let Some((path, _)) = self.layout_blobs.iter().find(|(path, _)| !is_served(path)) {
            return Err(Failure::input(format!(
                "--layout-blobs {path}: no --layout is served as {path}"
            )));
        }
        let open = |(path, folder): &(RepositoryPath, PathBuf)| {
            let mut files = LayoutFiles::new(folder);
            if let Some((_, blobs)) = self.layout_blobs.iter().find(|(of, _)| of == path) {
                files = files.with_blobs(blobs);
            }
            LayoutFolder::open(path.clone(), files).map_err(|error| {
                let (folder, error) = (folder.display(), error_chain(&error));
                Failure::input(format!("--layout {path}={folder}: {error}"))
            })
        };
        self.layout.iter().map(open).collect()
    }
}

fn read(flag: &str, file: &Path) -> Result<Vec<u8>, Failure> {
    let wrong =
        |error: std::io::Error| Failure::input(format!("{flag} {}: {error}", file.display()));
    let mut bytes = vec![];
    let open = open(file).map_err(wrong)?;
    open.take(MOST_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(wrong)?;
    if bytes.len() as u64 > MOST_BYTES {
        let large = std::io::Error::other(format!("larger than {MOST_BYTES} bytes"));
        return Err(wrong(large));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        registry: RegistryArguments,
    }

    #[test]
    fn a_scrub_is_paced_by_flags_in_the_units_of_other_flags() {
        let settings = |flags: &[&str]| {
            let line = ["coral"].iter().chain(flags);
            let (settings, _) = Command::parse_from(line).registry.settings().unwrap();
            (settings.scrub.interval, settings.scrub.bandwidth)
        };
        let usual = ScrubSettings::default();
        assert_eq!(settings(&[]), (usual.interval, usual.bandwidth));
        let given = settings(&["--scrub-interval=1h30m", "--scrub-bandwidth=50Mi"]);
        assert_eq!(given, (Duration::from_mins(90), 50 << 20));
        let given = settings(&["--scrub-interval=30d", "--scrub-bandwidth=0"]);
        assert_eq!(given, (Duration::from_hours(30 * 24), 0));
        for wrong in ["--scrub-interval=0s", "--scrub-interval=soon"] {
            assert!(
                Command::try_parse_from(["coral", wrong]).is_err(),
                "{wrong}"
            );
        }
    }

    #[test]
    fn a_registry_that_is_read_only_collects_and_moves_nothing() {
        for (flags, is_on) in [(&[][..], true), (&["--read-only"], false)] {
            let line = ["coral"].iter().chain(flags);
            let command = Command::parse_from(line);
            let (settings, _) = command.registry.settings().unwrap();
            assert_eq!(settings.collection.is_on, is_on, "{flags:?}");
            assert_eq!(settings.scrub.report_only, !is_on, "{flags:?}");
        }
    }
}
