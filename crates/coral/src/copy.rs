//! `coral copy`: one image, between registries, OCI layouts and archives of them.

mod arguments;
pub(crate) mod endpoint;

use std::collections::BTreeSet;
use std::error::Error;
use std::process::ExitCode;
use std::sync::Arc;

use coral_api::mirrored_images::{MirroredImage, MirroredState, MissingPart};
use coral_image::{ManifestKind, Platform, PlatformPattern, Version, error_chain};
use coral_mirror::{
    Cause, Copied, Copier, CopyError, CopyOptions, CopyRequest, CopySide, Event, Key, Observer,
    RetryPolicy, Subject,
};
use serde::Serialize;
use tracing::Instrument as _;

use crate::client::SETTLING;
use crate::counted::counted;
use crate::failure::{Failure, stop_on_signal};
use crate::report::{Action, ImageReport, print_json};
use crate::terminal::Terminal;
use crate::values::Output;
pub(crate) use arguments::CopyArguments;
use endpoint::CopyEndpoint;

pub(crate) async fn run(
    arguments: CopyArguments,
    terminal: &Terminal,
) -> Result<ExitCode, Failure> {
    let source = CopyEndpoint::parse(&arguments.source)?;
    let destination = CopyEndpoint::parse(&arguments.destination)?;
    let prints = !destination.is_standard_output();
    if !prints && arguments.output == Output::Json {
        return Err(Failure::input(
            "-o json: the archive goes to standard output, so nothing else can be printed there; \
             omit -o, or name a file instead of -",
        ));
    }
    let client = arguments.client.client(arguments.client.host_options()?)?;
    let credentials = arguments.client.user_credentials()?;
    let source = source.opened().await?;
    let source_version = source.source_version(&arguments.source).await?;
    let stop = stop_on_signal()?;
    let holds_one = matches!(destination, CopyEndpoint::DockerArchive(..));
    let (destination, archive) = destination.begun(Some(&source))?;
    let destination_version = destination.version_to_write(&source, &source_version);
    let (bars, name) = (terminal.clone(), arguments.source.clone());
    let (key, own) = (destination.key(), destination.key());
    let site = source.site(&client, &credentials);
    let platforms = if holds_one && arguments.platforms.is_empty() {
        own_platform(&site, &source_version, &arguments.source, terminal).await
    } else {
        arguments.platforms.clone()
    };
    let request = CopyRequest {
        source: site,
        source_version,
        destination: destination.site(&client, &credentials),
        destination_version,
        options: CopyOptions {
            platforms,
            foreign_layers: arguments.foreign_layers,
            without_referrers: arguments.no_referrers || holds_one,
            broken: BTreeSet::new(),
            expected: destination.digest(),
            look_first: true,
        },
        report: Arc::new(move |event| bars.observe(&alone(&name, key.as_ref()), event)),
    };
    let subject = alone(&arguments.source, own.as_ref());
    terminal.observe(&subject, &Event::Started);
    let what = format!("{} was not copied", arguments.source);
    let work = async {
        let failed = |error: &dyn Error| Failure::failed(&what, error);
        let copied = copy_with_retries(&request, &arguments.source, terminal).await;
        let copied = copied.map_err(|error| match error.cause() {
            Cause::After(wait) => {
                let wait = crate::terminal::wait(wait);
                failed(&error).hinting(format!("come back in {wait}"))
            }
            _ => failed(&error),
        })?;
        if let Some(archive) = archive {
            archive.finish().await.map_err(|error| failed(&error))?;
        }
        Ok(copied)
    };
    let copied = tokio::select! {
        copied = work => copied,
        () = stop.cancelled() => Err(Failure::stopped(format!("{what}: it was interrupted"))),
    };
    terminal.forget(&subject);
    client.settle(SETTLING).await;
    let copied = copied?;
    warn_of_missed(&copied, &arguments.source, terminal);
    if prints {
        print(&arguments, &copied);
    } else {
        terminal.line(&in_words(&arguments, &copied));
    }
    Ok(ExitCode::SUCCESS)
}

/// Warns about referrers that could not be copied.
fn warn_of_missed(copied: &Copied, source: &str, terminal: &Terminal) {
    let Some(error) = &copied.missed.first else {
        return;
    };
    let lists = counted(
        copied.missed.count as u64,
        "list of referrers or referrer",
        "lists of referrers or referrers",
    );
    terminal.line(&format!(
        "warning: {source}: copied without {lists}: {error}"
    ));
}

/// The platform of this machine, if the source is an index and only one platform can be copied.
/// Errors are reported by the copy itself.
async fn own_platform(
    source: &CopySide,
    version: &Version,
    name: &str,
    terminal: &Terminal,
) -> Vec<PlatformPattern> {
    let manifest = source.endpoint.manifest(version).await;
    let is_index = manifest.is_ok_and(|manifest| manifest.kind() == ManifestKind::Index);
    let own = Platform::current();
    let pattern = PlatformPattern::parse(&format!("linux/{}", own.architecture));
    let Some(pattern) = pattern.ok().filter(|_| is_index) else {
        return vec![];
    };
    terminal.line(&format!(
        "{name}: of its platforms, linux/{} is taken; --platform takes another one",
        own.architecture
    ));
    vec![pattern]
}

/// Retries transient failures with the backoff and the limit of a mirror.
async fn copy_with_retries(
    request: &CopyRequest,
    source: &str,
    terminal: &Terminal,
) -> Result<Copied, CopyError> {
    let engine = Copier::default();
    let policy = RetryPolicy::default();
    for attempt in 1.. {
        let span = tracing::error_span!("copy", %source, copy_attempt = attempt);
        let error = match engine.copy(request).instrument(span).await {
            Ok(copied) => return Ok(with_what_was_missed(&engine, request, copied).await),
            Err(error) => error,
        };
        let wait = policy.backoff(attempt, rand::random());
        let wait = match error.cause() {
            cause if cause.ends_at_once() => return Err(error),
            _ if attempt >= policy.limit => return Err(error),
            Cause::After(asked) => asked.max(wait),
            Cause::Transient | Cause::NoRoom { .. } | Cause::Refusal => wait,
        };
        let next = crate::terminal::wait(wait);
        terminal.line(&format!(
            "failed {source}: {}; retry in {next}",
            error_chain(&error)
        ));
        tokio::time::sleep(wait).await;
    }
    unreachable!("the loop returns at the limit")
}

/// The image is tagged by now; referrers whose failure was transient are retried.
async fn with_what_was_missed(
    engine: &Copier,
    request: &CopyRequest,
    mut copied: Copied,
) -> Copied {
    let policy = RetryPolicy::default();
    for attempt in 1..policy.limit {
        if !copied.missed.may_pass() {
            break;
        }
        tokio::time::sleep(policy.backoff(attempt, rand::random())).await;
        if let Ok(again) = engine.copy(request).await {
            copied.moved += again.moved;
            copied.referrers += again.referrers;
            copied.missed = again.missed;
        }
    }
    copied
}

/// What `copy -o json` prints in addition to the image.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct CopyDone {
    action: Action,
    bytes_copied: u64,
    /// Bytes that the destination already had.
    bytes_present: u64,
    referrers: usize,
    /// Referrers, and lists of them, that could not be copied or read.
    referrers_missed: usize,
    seconds: f64,
}

fn print(arguments: &CopyArguments, copied: &Copied) {
    match arguments.output {
        Output::Table => crate::terminal::print(&in_words(arguments, copied)),
        Output::Json => {
            let state = MirroredState::Mirrored;
            let image = MirroredImage::new(&arguments.source, &arguments.destination, state);
            print_json(&ImageReport {
                mirrors: vec![],
                image: MirroredImage {
                    digest: Some(copied.digest.to_string()),
                    sparse: copied.sparse.is_sparse(),
                    missing: missing(copied),
                    ..image
                },
                done: CopyDone {
                    action: if copied.up_to_date {
                        Action::UpToDate
                    } else {
                        Action::Copied
                    },
                    bytes_copied: copied.moved,
                    bytes_present: copied.spared,
                    referrers: copied.referrers,
                    referrers_missed: copied.missed.count,
                    seconds: copied.elapsed.as_secs_f64(),
                },
            });
        }
    }
}

fn missing(copied: &Copied) -> Vec<MissingPart> {
    let mut parts = copied.sparse.parts();
    parts.extend((!copied.missed.is_empty()).then_some(MissingPart::Referrers));
    parts
}

fn in_words(arguments: &CopyArguments, copied: &Copied) -> String {
    let referrers = match copied.referrers {
        0 => String::new(),
        count => format!(", {}", counted(count as u64, "referrer", "referrers")),
    };
    let sparse = crate::terminal::in_words(copied.sparse);
    if copied.up_to_date {
        return format!(
            "{} -> {} {} (up to date{sparse})",
            arguments.source, arguments.destination, copied.digest,
        );
    }
    format!(
        "{} -> {} {} ({} moved, {} already there{referrers}{sparse})",
        arguments.source,
        arguments.destination,
        copied.digest,
        indicatif::HumanBytes(copied.moved),
        indicatif::HumanBytes(copied.spared),
    )
}

/// The subject of a copy that belongs to no mirror.
fn alone<'a>(source: &'a str, key: Option<&'a Key>) -> Subject<'a> {
    Subject {
        mirror: None,
        source,
        key,
    }
}
