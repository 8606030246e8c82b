//! The repositories that can be read without a login, as the controller writes them to a file.

use std::collections::HashSet;

use coral_image::RepositoryPath;
use serde::Deserialize;

/// Most paths of one file.
const MAX_PATHS: usize = 20_000;

/// Exact repository paths that every client may read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PublicPaths {
    generation: u64,
    paths: HashSet<RepositoryPath>,
}

/// Why a file of public paths cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PublicPathsError {
    /// The text is not JSON of the expected shape.
    #[error("expected JSON such as {{\"generation\": 1, \"paths\": [\"team/app\"]}}")]
    Json(#[source] serde_json::Error),
    /// More paths than are allowed.
    #[error("{count} paths are listed, but at most {MAX_PATHS} are allowed")]
    TooMany {
        /// How many there are.
        count: usize,
    },
    /// An entry is not a repository path.
    #[error("paths[{index}] is not a repository path")]
    Path {
        /// The entry, from 0.
        index: usize,
        /// What is wrong with it.
        #[source]
        source: coral_image::ReferenceError,
    },
}

#[derive(Deserialize)]
struct Document {
    generation: u64,
    paths: Vec<String>,
}

impl PublicPaths {
    /// Parses `{"generation": N, "paths": ["HOST/PATH", …]}`; unknown fields are ignored.
    pub fn parse(json: &[u8]) -> Result<Self, PublicPathsError> {
        let document: Document = serde_json::from_slice(json).map_err(PublicPathsError::Json)?;
        let count = document.paths.len();
        if count > MAX_PATHS {
            return Err(PublicPathsError::TooMany { count });
        }
        let path = |(index, text): (usize, &String)| {
            RepositoryPath::parse(text).map_err(|source| PublicPathsError::Path { index, source })
        };
        let paths = document.paths.iter().enumerate().map(path);
        Ok(Self {
            generation: document.generation,
            paths: paths.collect::<Result<_, _>>()?,
        })
    }

    /// The generation that the file names; 0 before a file was read.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// How many paths there are.
    pub fn len(&self) -> usize {
        self.paths.len()
    }

    /// Whether there are no paths.
    pub fn is_empty(&self) -> bool {
        self.paths.is_empty()
    }

    /// Whether this exact path is public.
    pub fn contains(&self, path: &RepositoryPath) -> bool {
        self.paths.contains(path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exact_paths_are_public_and_nothing_below_them() {
        let json = br#"{"generation": 7, "paths": ["docker.io/library/nginx", "a"], "more": 1}"#;
        let public = PublicPaths::parse(json).unwrap();
        assert_eq!((public.generation(), public.len()), (7, 2));
        for (path, expected) in [
            ("docker.io/library/nginx", true),
            ("docker.io/library/nginx/x", false),
            ("docker.io/library", false),
            ("a", true),
        ] {
            let path = RepositoryPath::parse(path).unwrap();
            assert_eq!(public.contains(&path), expected, "{path}");
        }
    }

    #[test]
    fn a_file_that_is_not_understood_is_refused_as_a_whole() {
        let many = vec!["\"a\""; MAX_PATHS + 1].join(",");
        for (json, expected) in [
            ("", "expected JSON"),
            ("{\"paths\": []}", "expected JSON"),
            ("{\"generation\": -1, \"paths\": []}", "expected JSON"),
            ("{\"generation\": 1, \"paths\": [\"a\", \"A\"]}", "paths[1]"),
            ("{\"generation\": 1, \"paths\": [\"a/**\"]}", "paths[0]"),
            (
                &format!("{{\"generation\": 1, \"paths\": [{many}]}}"),
                "20001 paths",
            ),
        ] {
            let error = PublicPaths::parse(json.as_bytes()).unwrap_err();
            assert!(error.to_string().contains(expected), "{error}");
        }
    }
}
