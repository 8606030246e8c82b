//! The older `kind: Mirror`, read as a RegistryMirror.

use crate::documents::Object;
use crate::names::kind;
use crate::registry_mirror::{ListSelection, RegistryMirror};
use crate::selection::TagSelect;

/// A RegistryMirror read from the older kind: older spellings replaced, and a warning that shows
/// what to write instead.
pub(crate) fn converted(object: Object, warnings: &mut Vec<String>) -> Object {
    let Object::RegistryMirror(mut mirror) = object else {
        return object;
    };
    for repository in &mut mirror.spec.repositories {
        // The older API ignored tags beside `listSelection: all`.
        if repository.list_selection.take() == Some(ListSelection::All) {
            repository.tags.clear();
            repository.select = Some(TagSelect {
                all: true,
                ..TagSelect::default()
            });
        }
    }
    warnings.push(warning(&mirror));
    Object::RegistryMirror(mirror)
}

fn warning(mirror: &RegistryMirror) -> String {
    let yaml = serde_saphyr::to_string(mirror).unwrap_or_default();
    format!(
        "kind: {} is now called {}; it is read as one. The same in the new form:\n{yaml}",
        kind::MIRROR,
        kind::REGISTRY_MIRROR
    )
}
