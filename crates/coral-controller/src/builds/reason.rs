//! Reasons of the condition `Ready` of a build, and how they differ for the controller.

pub(super) use coral_api::image_build::reason::*;

/// Reasons that pass by themselves.
pub(super) const TRANSIENT: [&str; 5] = [WAITING, QUEUED, PUBLISHING, SUPERSEDED, SUSPENDED];
