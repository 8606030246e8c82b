//! The Secrets among the documents.

use std::collections::{BTreeMap, BTreeSet};

use coral_api::documents::{Document, Object};
use coral_api::{Secret, metadata};

/// Namespace and name.
type Key = (String, String);

/// The Secrets that may be used, and those that may not.
pub(super) struct Secrets<'a> {
    sound: BTreeMap<Key, &'a Secret>,
    /// Secrets in files with a mistake; the last valid content of these files stays in effect.
    unsure: BTreeMap<Key, &'a str>,
}

impl<'a> Secrets<'a> {
    /// The Secrets of `documents` that are not in a `broken` file.
    pub(super) fn among(documents: &'a [Document], broken: &BTreeSet<String>) -> Self {
        let mut secrets = Self {
            sound: BTreeMap::new(),
            unsure: BTreeMap::new(),
        };
        for document in documents {
            let Object::Secret(secret) = &document.object else {
                continue;
            };
            let key = (
                metadata::namespace(&secret.metadata).to_owned(),
                metadata::name(&secret.metadata).to_owned(),
            );
            if broken.contains(&document.origin) {
                secrets.unsure.insert(key, &document.origin);
            } else {
                secrets.sound.insert(key, secret);
            }
        }
        secrets
    }

    /// The Secret of that name.
    pub(super) fn get(&self, namespace: &str, name: &str) -> Result<&'a Secret, SecretLookupError> {
        let key = (namespace.to_owned(), name.to_owned());
        if let Some(secret) = self.sound.get(&key) {
            return Ok(secret);
        }
        let origin = self.unsure.get(&key);
        let (namespace, name) = key;
        Err(match origin {
            Some(origin) => SecretLookupError::InBrokenFile {
                namespace,
                name,
                origin: (*origin).to_owned(),
            },
            None => SecretLookupError::Missing { namespace, name },
        })
    }
}

/// Why a Secret cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum SecretLookupError {
    #[error("Secret {name:?} in namespace {namespace:?} is not used while {origin} has a mistake")]
    InBrokenFile {
        namespace: String,
        name: String,
        origin: String,
    },
    #[error("there is no Secret {name:?} in namespace {namespace:?} among the files")]
    Missing { namespace: String, name: String },
}

#[cfg(test)]
mod tests {
    use super::*;
    use coral_api::documents::{duplicates, read};

    fn secret(origin: &str, password: &str) -> Vec<Document> {
        let head = "apiVersion: v1\nkind: Secret\nmetadata:\n  name: users\n";
        read(
            origin,
            &format!("{head}stringData:\n  htpasswd: {password}\n"),
        )
        .unwrap()
    }

    #[test]
    fn a_secret_that_two_files_hold_is_used_from_neither() {
        let documents = [secret("m.yaml", "a:1"), secret("z.yaml", "z:1")].concat();
        let broken = duplicates(&documents).into_iter().map(|error| error.origin);
        let secrets = Secrets::among(&documents, &broken.collect());
        let refused = secrets.get("default", "users").unwrap_err().to_string();
        assert!(refused.contains("is not used while"), "{refused}");
        let alone = secret("m.yaml", "a:1");
        let secrets = Secrets::among(&alone, &BTreeSet::new());
        assert!(secrets.get("default", "users").is_ok());
        assert!(secrets.get("other", "users").is_err());
    }
}
