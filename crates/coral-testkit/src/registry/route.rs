//! Which part of the distribution API a path means.

/// A path, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Route {
    /// `/v2/`
    Base,
    /// `/token`
    Token,
    /// `/v2/<path>/manifests/<reference>`
    Manifest { path: String, reference: String },
    /// `/v2/<path>/blobs/<digest>`
    Blob { path: String, digest: String },
    /// `/v2/<path>/blobs/uploads/`
    Uploads { path: String },
    /// `/v2/<path>/blobs/uploads/<id>`
    Upload { path: String, id: String },
    /// `/v2/<path>/tags/list`
    Tags { path: String },
    /// `/v2/<path>/referrers/<digest>`
    Referrers { path: String, digest: String },
    /// Anything else.
    Unknown,
}

impl Route {
    pub(super) fn from_path(path: &str) -> Self {
        match path {
            "/v2" | "/v2/" => return Self::Base,
            "/token" => return Self::Token,
            _ => {}
        }
        let Some(rest) = path.strip_prefix("/v2/") else {
            return Self::Unknown;
        };
        let split = |marker| {
            let (path, last) = rest.rsplit_once(marker)?;
            Some((path.to_owned(), last.to_owned()))
        };
        if let Some((path, id)) = split("/blobs/uploads/") {
            return if id.is_empty() {
                Self::Uploads { path }
            } else {
                Self::Upload { path, id }
            };
        }
        if let Some(path) = rest.strip_suffix("/blobs/uploads") {
            return Self::Uploads {
                path: path.to_owned(),
            };
        }
        if let Some(path) = rest.strip_suffix("/tags/list") {
            return Self::Tags {
                path: path.to_owned(),
            };
        }
        if let Some((path, reference)) = split("/manifests/") {
            return Self::Manifest { path, reference };
        }
        if let Some((path, digest)) = split("/blobs/") {
            return Self::Blob { path, digest };
        }
        if let Some((path, digest)) = split("/referrers/") {
            return Self::Referrers { path, digest };
        }
        Self::Unknown
    }

    /// The repository, where the route has one.
    pub(super) fn repository(&self) -> Option<&str> {
        match self {
            Self::Manifest { path, .. }
            | Self::Blob { path, .. }
            | Self::Uploads { path }
            | Self::Upload { path, .. }
            | Self::Tags { path }
            | Self::Referrers { path, .. } => Some(path),
            Self::Base | Self::Token | Self::Unknown => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_with_slashes_are_taken_apart_from_the_end() {
        let path = || "a/blobs/b".to_owned();
        assert_eq!(
            Route::from_path("/v2/a/blobs/b/manifests/1"),
            Route::Manifest {
                path: path(),
                reference: "1".into()
            }
        );
        assert_eq!(
            Route::from_path("/v2/a/blobs/b/blobs/uploads/"),
            Route::Uploads { path: path() }
        );
        assert_eq!(
            Route::from_path("/v2/a/blobs/b/blobs/uploads/7"),
            Route::Upload {
                path: path(),
                id: "7".into()
            }
        );
        assert_eq!(
            Route::from_path("/v2/a/blobs/b/tags/list"),
            Route::Tags { path: path() }
        );
        assert_eq!(Route::from_path("/else"), Route::Unknown);
    }
}
