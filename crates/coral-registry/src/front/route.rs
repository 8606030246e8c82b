//! Paths below `/v2/`, parsed into validated values.

use coral_image::{Digest, ReferenceError, RepositoryPath, Tag, Version};
use percent_encoding::percent_decode_str;

use super::error::{Code, Refusal};
use crate::store::UploadId;

/// What a path names.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Route {
    Base,
    Catalog,
    Tags(RepositoryPath),
    Referrers(RepositoryPath, Digest),
    Blob(RepositoryPath, Digest),
    Manifest(RepositoryPath, Version),
    Uploads(RepositoryPath),
    Upload(RepositoryPath, UploadId),
}

/// The kind of route, for metrics: a bounded set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum RouteClass {
    Base,
    Catalog,
    Tags,
    Referrers,
    Blob,
    Manifest,
    Upload,
    Unknown,
}

impl RouteClass {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Base => "base",
            Self::Catalog => "catalog",
            Self::Tags => "tags",
            Self::Referrers => "referrers",
            Self::Blob => "blob",
            Self::Manifest => "manifest",
            Self::Upload => "upload",
            Self::Unknown => "unknown",
        }
    }
}

impl Route {
    /// Parses the path of a URL. It is parsed from its end, because the name of a repository may
    /// itself have components such as `blobs`.
    pub(crate) fn parse(path: &str) -> Result<Self, Refusal> {
        // Invalid encodings stay as they are, and no valid name has a percent sign.
        let path = percent_decode_str(path)
            .decode_utf8()
            .map_err(|_| Refusal::invalid(Code::NameInvalid, "the path is not UTF-8"))?;
        let path = path.strip_prefix("/v2").unwrap_or(&path);
        let path = path.strip_prefix('/').unwrap_or(path);
        match path {
            "" => return Ok(Self::Base),
            "_catalog" => return Ok(Self::Catalog),
            _ => {}
        }
        let (rest, last) = path.rsplit_once('/').unwrap_or(("", path));
        match rest.rsplit_once('/') {
            Some((name, "tags")) if last == "list" => Ok(Self::Tags(repository(name)?)),
            Some((name, "blobs")) if last == "uploads" => Ok(Self::Uploads(repository(name)?)),
            Some((rest, "uploads")) if rest.ends_with("/blobs") => {
                let name = repository(rest.strip_suffix("/blobs").unwrap_or(rest))?;
                match last {
                    "" => Ok(Self::Uploads(name)),
                    id => Ok(Self::Upload(name, upload(id)?)),
                }
            }
            Some((name, "blobs")) => Ok(Self::Blob(repository(name)?, digest(last)?)),
            Some((name, "manifests")) => Ok(Self::Manifest(repository(name)?, version(last)?)),
            Some((name, "referrers")) => Ok(Self::Referrers(repository(name)?, digest(last)?)),
            _ => Err(Refusal::not_found(
                Code::Unsupported,
                "there is nothing at this path; the API has /v2/<name>/manifests/<reference>, \
                 /v2/<name>/blobs/<digest>, /v2/<name>/blobs/uploads/, /v2/<name>/tags/list and \
                 /v2/<name>/referrers/<digest>",
            )),
        }
    }

    pub(crate) fn class(&self) -> RouteClass {
        match self {
            Self::Base => RouteClass::Base,
            Self::Catalog => RouteClass::Catalog,
            Self::Tags(_) => RouteClass::Tags,
            Self::Referrers(..) => RouteClass::Referrers,
            Self::Blob(..) => RouteClass::Blob,
            Self::Manifest(..) => RouteClass::Manifest,
            Self::Uploads(_) | Self::Upload(..) => RouteClass::Upload,
        }
    }

    /// The repository of the route, if it has one.
    pub(crate) fn repository(&self) -> Option<&RepositoryPath> {
        match self {
            Self::Base | Self::Catalog => None,
            Self::Tags(name)
            | Self::Referrers(name, _)
            | Self::Blob(name, _)
            | Self::Manifest(name, _)
            | Self::Uploads(name)
            | Self::Upload(name, _) => Some(name),
        }
    }

    /// The tag or digest of the route, if it has one.
    pub(crate) fn reference(&self) -> Option<String> {
        match self {
            Self::Manifest(_, version) => Some(version.to_string()),
            Self::Blob(_, digest) | Self::Referrers(_, digest) => Some(digest.to_string()),
            Self::Base | Self::Catalog | Self::Tags(_) | Self::Uploads(_) | Self::Upload(..) => {
                None
            }
        }
    }

    /// The methods of the route, as in the header `Allow`.
    pub(crate) fn methods(&self) -> &'static str {
        match self {
            Self::Base | Self::Catalog | Self::Tags(_) | Self::Referrers(..) => "GET, HEAD",
            Self::Blob(..) => "GET, HEAD, DELETE",
            Self::Manifest(..) => "GET, HEAD, PUT, DELETE",
            Self::Uploads(_) => "POST",
            Self::Upload(..) => "GET, HEAD, PATCH, PUT, DELETE",
        }
    }
}

fn repository(name: &str) -> Result<RepositoryPath, Refusal> {
    RepositoryPath::parse(name)
        .map_err(|error| Refusal::invalid(Code::NameInvalid, error.to_string()))
}

pub(crate) fn digest(text: &str) -> Result<Digest, Refusal> {
    Digest::parse(text).map_err(|error| Refusal::invalid(Code::DigestInvalid, error.to_string()))
}

pub(crate) fn tag(text: &str) -> Result<Tag, Refusal> {
    Tag::parse(text).map_err(|error| Refusal::invalid(Code::TagInvalid, error.to_string()))
}

fn version(text: &str) -> Result<Version, Refusal> {
    Version::parse(text).map_err(|error| {
        let code = match &error {
            ReferenceError::Digest(_) => Code::DigestInvalid,
            _ => Code::TagInvalid,
        };
        Refusal::invalid(code, error.to_string())
    })
}

fn upload(id: &str) -> Result<UploadId, Refusal> {
    UploadId::parse(id).ok_or_else(|| {
        Refusal::not_found(Code::BlobUploadUnknown, "this is not the name of an upload")
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn name(text: &str) -> RepositoryPath {
        RepositoryPath::parse(text).unwrap()
    }

    #[allow(
        clippy::needless_pass_by_value,
        reason = "so the table below reads as one"
    )]
    fn check(path: &str, expected: Route) {
        assert_eq!(Route::parse(path).unwrap(), expected, "{path}");
    }

    #[test]
    fn every_kind_of_path_is_found() {
        let blob = Digest::sha256(b"x");
        let id = UploadId::random();
        check("/v2", Route::Base);
        check("/v2/", Route::Base);
        check("/v2/_catalog", Route::Catalog);
        check("/v2/a/b/tags/list", Route::Tags(name("a/b")));
        check(&format!("/v2/a/blobs/{blob}"), Route::Blob(name("a"), blob));
        check(
            &format!("/v2/a/referrers/{blob}"),
            Route::Referrers(name("a"), blob),
        );
        check("/v2/a/blobs/uploads", Route::Uploads(name("a")));
        check("/v2/a/blobs/uploads/", Route::Uploads(name("a")));
        check(
            &format!("/v2/a/blobs/uploads/{id}"),
            Route::Upload(name("a"), id),
        );
        let version = Version::parse("latest").unwrap();
        check(
            "/v2/a/manifests/latest",
            Route::Manifest(name("a"), version),
        );
    }

    #[test]
    fn a_repository_may_be_named_like_a_part_of_the_api() {
        let version = Version::parse("list").unwrap();
        check(
            "/v2/tags/list/manifests/list",
            Route::Manifest(name("tags/list"), version),
        );
        check(
            "/v2/blobs/uploads/tags/list",
            Route::Tags(name("blobs/uploads")),
        );
        check(
            "/v2/blobs/uploads/blobs/uploads/",
            Route::Uploads(name("blobs/uploads")),
        );
        let id = UploadId::random();
        check(
            "/v2/x/blobs/blobs/uploads/",
            Route::Uploads(name("x/blobs")),
        );
        check(
            &format!("/v2/x/blobs/blobs/blobs/uploads/{id}"),
            Route::Upload(name("x/blobs/blobs"), id),
        );
    }

    #[test]
    fn percent_encoding_is_undone_before_anything_is_read() {
        let blob = Digest::sha256(b"x");
        let path = format!("/v2/a%2Fb/blobs/{}", blob.to_string().replace(':', "%3a"));
        check(&path, Route::Blob(name("a/b"), blob));
        assert!(Route::parse("/v2/a%2f..%2fb/tags/list").is_err());
        for malformed in ["a%zz", "a%", "%ff", "a%2"] {
            let path = format!("/v2/{malformed}/tags/list");
            assert!(Route::parse(&path).is_err(), "{path}");
        }
    }

    proptest! {
        #[test]
        fn no_path_is_too_strange(path in ".*") {
            let _ = Route::parse(&path);
            let _ = Route::parse(&format!("/v2/{path}/blobs/uploads/{path}"));
        }
    }
}
