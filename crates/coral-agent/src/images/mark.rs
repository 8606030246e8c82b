//! The label by which the agent records its role on a name of an image.

use std::collections::BTreeMap;

use coral_cri::{ImageName, Marks, RuntimeImage};

/// The label on names that the agent is responsible for.
pub(crate) const LABEL: &str = "image.stvz.io/agent";

/// The agent's responsibility for a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// The agent made the name, and leaves it when it is no longer wanted.
    Keep,
    /// The agent made the name, and removes it when it is no longer wanted.
    Remove,
    /// The name existed before; the agent only pinned it.
    Preexisting,
}

impl Role {
    /// The role on a name; `None` if the agent is not responsible for it.
    pub(crate) fn on(name: &ImageName) -> Option<Self> {
        match name.labels.get(LABEL)?.as_str() {
            "keep" => Some(Self::Keep),
            "remove" => Some(Self::Remove),
            // A value of another version: never a reason to remove anything.
            _ => Some(Self::Preexisting),
        }
    }

    /// The role of a name that the agent made.
    pub(crate) fn made(remove: bool) -> Self {
        if remove { Self::Remove } else { Self::Keep }
    }

    /// Whether the agent made the name.
    pub(crate) fn is_made(self) -> bool {
        matches!(self, Self::Keep | Self::Remove)
    }

    fn value(self) -> &'static str {
        match self {
            Self::Keep => "keep",
            Self::Remove => "remove",
            Self::Preexisting => "found",
        }
    }
}

/// The marks of a name with this role. Without a role the label is removed.
pub(crate) fn marks(role: Option<Role>, pinned: bool) -> Marks {
    let value = role.map_or("", Role::value).to_owned();
    Marks {
        pinned,
        labels: BTreeMap::from([(LABEL.to_owned(), value)]),
    }
}

/// Whether there is a name that the agent may have to remove.
pub(crate) fn any_to_remove(present: &[RuntimeImage]) -> bool {
    let mut names = present.iter().flat_map(|image| &image.names);
    names.any(|name| Role::on(name) == Some(Role::Remove))
}
