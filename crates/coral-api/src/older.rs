//! The older `kind: Mirror`, read as a RegistryMirror.

use crate::names::kind;
use crate::registry_mirror::{ListSelection, RegistryMirror};
use crate::selection::TagSelect;

/// Replaces the older spellings in a RegistryMirror that was read from the older kind. Returns a
/// warning that shows what to write instead.
pub(crate) fn convert(mirror: &mut RegistryMirror) -> String {
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
    let yaml = serde_saphyr::to_string(mirror).unwrap_or_default();
    format!(
        "kind: {} is now called {}; it is read as one. The same in the new form:\n{yaml}",
        kind::MIRROR,
        kind::REGISTRY_MIRROR
    )
}
