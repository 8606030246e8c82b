//! `coral copy`: one image, between registries, OCI layouts and archives of them.

use std::collections::BTreeSet;
use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use coral_distribution::{Client, Credentials, Layout, NewArchive};
use coral_image::{ImageRef, Tag, Version};
use coral_mirror::{
    Cause, Copied, Copier, CopyError, CopyOptions, CopyRequest, Event, Key, Observer, RetryPolicy,
    Site, chain,
};
use coral_rt::shutdown_on_signal;
use serde_json::json;

use crate::arguments::{CopyArguments, Output};
use crate::client::SETTLING;
use crate::failure::Failure;
use crate::terminal::Terminal;

/// One end of a copy, as typed.
enum Place {
    Image(ImageRef, bool),
    Layout(Layout, Option<Version>),
    Archive(PathBuf, Option<Version>),
}

impl Place {
    /// `oci:DIR[:TAG]`, `oci:DIR[@DIGEST]`, the same with `oci-archive:FILE.tar`, else an image
    /// reference.
    fn parse(text: &str) -> Result<Self, Failure> {
        if let Some(rest) = text.strip_prefix("oci:") {
            let (dir, version) = path_and_version(text, rest, "oci:DIR[:TAG]")?;
            return Ok(Self::Layout(Layout::new(dir), version));
        }
        if let Some(rest) = text.strip_prefix("oci-archive:") {
            let (file, version) = path_and_version(text, rest, "oci-archive:FILE.tar[:TAG]")?;
            return Ok(Self::Archive(file, version));
        }
        let image = ImageRef::parse(text);
        let image = image.map_err(|e| Failure::input(format!("{text}: {e}")))?;
        let last = text.rsplit('/').next().unwrap_or_default();
        Ok(Self::Image(image, last.contains([':', '@'])))
    }

    /// To read from: an archive becomes the layout in it.
    async fn opened(self) -> Result<Self, Failure> {
        let Self::Archive(file, version) = self else {
            return Ok(self);
        };
        let layout = Layout::open_archive(file).await;
        let layout = layout.map_err(|error| Failure::error(&error))?;
        Ok(Self::Layout(layout, version))
    }

    /// To write to: an archive becomes a layout that is packed in the end.
    fn begun(self) -> Result<(Self, Option<NewArchive>), Failure> {
        let Self::Archive(file, version) = self else {
            return Ok((self, None));
        };
        let archive = NewArchive::create(file).map_err(|error| Failure::error(&error))?;
        Ok((Self::Layout(archive.layout(), version), Some(archive)))
    }

    fn site(&self, client: &Client, credentials: &Arc<Credentials>) -> Site {
        match self {
            Self::Image(image, _) => {
                let repository = image.repository();
                Site::new(
                    client.repository(repository, credentials.clone()).into(),
                    repository,
                )
            }
            Self::Layout(layout, _) => Site::layout(layout.clone()),
            Self::Archive(file, _) => Site::layout(Layout::new(file)),
        }
    }

    /// The version that was typed.
    fn version(&self) -> Option<Version> {
        match self {
            Self::Image(image, true) => Some(image.version()),
            Self::Image(_, false) => None,
            Self::Layout(_, version) | Self::Archive(_, version) => version.clone(),
        }
    }

    fn key(&self) -> Option<Key> {
        match self {
            Self::Image(image, _) => Some(Key::of(image)),
            Self::Layout(..) | Self::Archive(..) => None,
        }
    }
}

/// Takes `PATH[:TAG]` or `PATH[@DIGEST]` apart.
fn path_and_version(
    text: &str,
    rest: &str,
    expected: &str,
) -> Result<(PathBuf, Option<Version>), Failure> {
    let wrong = |e| Failure::input(format!("{text}: {e}"));
    let (path, version) = if let Some((path, digest)) = rest.split_once('@') {
        (path, Some(Version::parse(digest).map_err(wrong)?))
    } else {
        match rest.rsplit_once(':') {
            Some((path, tag)) if !tag.contains('/') => {
                (path, Some(Version::Tag(Tag::parse(tag).map_err(wrong)?)))
            }
            _ => (rest, None),
        }
    };
    if path.is_empty() {
        return Err(Failure::input(format!("{text}: expected {expected}")));
    }
    Ok((PathBuf::from(path), version))
}

pub(crate) async fn run(
    arguments: CopyArguments,
    terminal: &Terminal,
) -> Result<ExitCode, Failure> {
    let source = Place::parse(&arguments.source)?;
    let destination = Place::parse(&arguments.destination)?;
    let client = arguments.client.client(arguments.client.host_options()?)?;
    let credentials = arguments.client.user_credentials()?;
    let source = source.opened().await?;
    let source_version = source_version(&source, &arguments.source).await?;
    let stop = shutdown_on_signal()
        .map_err(|error| Failure::failed("signals cannot be handled", &error))?;
    let (destination, archive) = destination.begun()?;
    let destination_version = destination
        .version()
        .unwrap_or_else(|| source_version.clone());
    let (bars, name, key) = (
        terminal.clone(),
        arguments.source.clone(),
        destination.key(),
    );
    let request = CopyRequest {
        source: source.site(&client, &credentials),
        source_version,
        destination: destination.site(&client, &credentials),
        destination_version,
        options: CopyOptions {
            platforms: arguments.platforms.clone(),
            without_referrers: arguments.no_referrers,
            broken: BTreeSet::new(),
        },
        report: Arc::new(move |event| bars.observe(&name, key.as_ref(), event)),
    };
    terminal.observe(&arguments.source, None, &Event::Started);
    let what = format!("{} was not copied", arguments.source);
    let work = async {
        let failed = |error: &dyn Error| Failure::failed(&what, error);
        let copied = copy_with_retries(&request, &arguments.source, terminal).await;
        let copied = copied.map_err(|error| failed(&error))?;
        if let Some(archive) = archive {
            archive.finish().await.map_err(|error| failed(&error))?;
        }
        Ok(copied)
    };
    let copied = tokio::select! {
        copied = work => copied,
        () = stop.cancelled() => Err(Failure::stopped(format!("{what}: it was stopped"))),
    };
    terminal.forget(&arguments.source);
    client.settle(SETTLING).await;
    print(&arguments, &copied?);
    Ok(ExitCode::SUCCESS)
}

/// What may pass by itself is tried again with the waits of a mirror, as often as a mirror's limit
/// says.
async fn copy_with_retries(
    request: &CopyRequest,
    source: &str,
    terminal: &Terminal,
) -> Result<Copied, CopyError> {
    let engine = Copier::default();
    let policy = RetryPolicy::default();
    for attempt in 1.. {
        let error = match engine.copy(request).await {
            Ok(copied) => return Ok(copied),
            Err(error) => error,
        };
        let wait = policy.backoff(attempt, rand::random());
        let wait = match error.cause() {
            Cause::Refusal => return Err(error),
            _ if attempt >= policy.limit => return Err(error),
            Cause::Transient => wait,
            Cause::After(asked) => asked.max(wait).min(policy.max_backoff),
        };
        let next = crate::terminal::seconds(wait);
        terminal.line(&format!(
            "failed {source}: {}; retry in {next}",
            chain(&error)
        ));
        tokio::time::sleep(wait).await;
    }
    unreachable!("the loop ends at the limit")
}

/// What is copied: what was typed; of a layout without a tag, the only thing in it.
async fn source_version(source: &Place, typed: &str) -> Result<Version, Failure> {
    let Place::Layout(layout, None) = source else {
        return Ok(source
            .version()
            .unwrap_or_else(|| Version::Tag(Tag::latest())));
    };
    let entries = layout
        .entries()
        .await
        .map_err(|error| Failure::error(&error))?;
    match entries.as_slice() {
        [only] => Ok(Version::Digest(only.digest)),
        several => Err(Failure::input(format!(
            "{typed}: the layout holds {} images; name one with {typed}:TAG",
            several.len()
        ))),
    }
}

fn print(arguments: &CopyArguments, copied: &Copied) {
    let text = match arguments.output {
        Output::Table => format!(
            "{} -> {} {} ({} moved, {} already there{}{})",
            arguments.source,
            arguments.destination,
            copied.digest,
            indicatif::HumanBytes(copied.moved),
            indicatif::HumanBytes(copied.spared),
            if copied.referrers > 0 {
                format!(", {} referrers", copied.referrers)
            } else {
                String::new()
            },
            if copied.sparse {
                ", sparse: only the platforms asked for"
            } else {
                ""
            },
        ),
        Output::Json => json!({
            "source": arguments.source,
            "destination": arguments.destination,
            "digest": copied.digest,
            "bytesMoved": copied.moved,
            "bytesSpared": copied.spared,
            "referrers": copied.referrers,
            "sparse": copied.sparse,
            "seconds": copied.elapsed.as_secs_f64(),
        })
        .to_string(),
    };
    crate::terminal::print(&text);
}
