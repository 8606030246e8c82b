//! The platform of an image with a single manifest, from its configuration.

use coral_distribution::{Endpoint, Error};
use coral_image::{Descriptor, Manifest, ManifestKind, Platform, PlatformPattern, media_type};
use futures::TryStreamExt;
use serde::Deserialize;

use super::error::{Kind, Side};
use super::{CopyError, CopySide, choose_children};
use crate::pace::AskError;

/// Most bytes of a configuration that is read; the largest known have a few hundred kilobytes.
const MAX_CONFIG: u64 = 4 * 1024 * 1024;

/// The platform in a configuration (OCI image-spec, `config.md`).
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Config {
    os: Option<String>,
    architecture: Option<String>,
    variant: Option<String>,
}

/// Why an image is for none of these platforms; `None` if it is for one of them, or if none is
/// named.
///
/// # Errors
/// If its configuration cannot be read.
pub async fn check_platforms(
    endpoint: &Endpoint,
    manifest: &Manifest,
    platforms: &[PlatformPattern],
) -> Result<Option<CopyError>, Error> {
    if let Err(refused) = choose_children(manifest, platforms) {
        return Ok(Some(refused));
    }
    let Some(config) = configuration(manifest, platforms) else {
        return Ok(None);
    };
    let config = read(endpoint, config).await?;
    Ok(check_configuration(&config, platforms).err())
}

/// The same for the root of a copy, at the pace of its source.
pub(super) async fn check(
    source: &CopySide,
    manifest: &Manifest,
    platforms: &[PlatformPattern],
) -> Result<(), CopyError> {
    let Some(config) = configuration(manifest, platforms) else {
        return Ok(());
    };
    let read: Result<_, AskError> = source.ask(|| read(&source.endpoint, config)).await;
    let read = read.map_err(|error| CopyError::at(Side::Source, error))?;
    check_configuration(&read, platforms)
}

/// Whether the configuration of an image with a single manifest is for none of the platforms;
/// `false` if it cannot be read.
pub(crate) async fn is_for_another(
    endpoint: &Endpoint,
    manifest: &Manifest,
    platforms: &[PlatformPattern],
) -> bool {
    let Some(config) = configuration(manifest, platforms) else {
        return false;
    };
    let read = read(endpoint, config).await;
    read.is_ok_and(|config| check_configuration(&config, platforms).is_err())
}

/// The configuration to read; `None` for an index, and for artifacts, which have no platform.
fn configuration<'a>(
    manifest: &'a Manifest,
    platforms: &[PlatformPattern],
) -> Option<&'a Descriptor> {
    let is_image = |config: &&Descriptor| media_type::is_image_config(&config.media_type);
    let config = manifest.body().config.as_ref().filter(is_image);
    let asked = manifest.kind() == ManifestKind::Image && !platforms.is_empty();
    config.filter(|config| asked && config.size <= MAX_CONFIG)
}

async fn read(endpoint: &Endpoint, config: &Descriptor) -> Result<Vec<u8>, Error> {
    let blob = endpoint.blob(config, 0).await?;
    let chunks: Vec<bytes::Bytes> = blob.try_collect().await?;
    Ok(chunks.concat())
}

/// Compares a configuration with the platforms. One that names no platform is for none in
/// particular, and is accepted.
fn check_configuration(config: &[u8], platforms: &[PlatformPattern]) -> Result<(), CopyError> {
    let Some(platform) = configuration_platform(config) else {
        return Ok(());
    };
    if platforms.iter().any(|wanted| wanted.accepts(&platform)) {
        return Ok(());
    }
    let wanted: Vec<String> = platforms.iter().take(20).map(ToString::to_string).collect();
    Err(Kind::OtherPlatform {
        wanted: wanted.join(", "),
        platform: platform.to_string(),
    }
    .into())
}

fn configuration_platform(config: &[u8]) -> Option<Platform> {
    let config: Config = serde_json::from_slice(config).ok()?;
    let given = |text: Option<String>| text.filter(|text| !text.is_empty());
    let (os, architecture) = (given(config.os)?, given(config.architecture)?);
    let variant = given(config.variant).map(|variant| format!("/{variant}"));
    let text = format!("{os}/{architecture}{}", variant.unwrap_or_default());
    Platform::parse(&text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn patterns(texts: &[&str]) -> Vec<PlatformPattern> {
        let parse = |text: &&str| PlatformPattern::parse(text).unwrap();
        texts.iter().map(parse).collect()
    }

    #[test]
    fn a_configuration_for_another_platform_is_refused_with_both_names() {
        let config = br#"{"os":"linux","architecture":"amd64"}"#;
        check_configuration(config, &patterns(&["linux/amd64"])).unwrap();
        check_configuration(config, &patterns(&["linux/arm64", "linux/*"])).unwrap();
        let refused = check_configuration(config, &patterns(&["linux/arm64"])).unwrap_err();
        assert_eq!(refused.category(), "no_platform");
        let said = refused.to_string();
        assert!(
            said.contains("linux/arm64") && said.contains("linux/amd64"),
            "{said}"
        );
    }

    #[test]
    fn a_configuration_that_names_no_platform_is_for_all() {
        let wanted = patterns(&["linux/arm64"]);
        for config in [
            "{}",
            "[]",
            "",
            r#"{"os":"","architecture":""}"#,
            r#"{"os":"linux"}"#,
        ] {
            check_configuration(config.as_bytes(), &wanted).unwrap();
        }
    }
}
