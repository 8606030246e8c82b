//! The images of the node: what to pull, to name, to pin and to remove.
//!
//! Whether an image is there is read from the runtime each time; what the agent did to a name is
//! written on the name itself, as a label, so that it survives the agent ([`mark::LABEL`]). In
//! memory, and in the status of NodeImages, is only what failed and when it is tried again.

pub(crate) mod attempt;
pub(crate) mod decide;
pub(crate) mod mark;
pub(crate) mod names;
pub(crate) mod remove;
pub(crate) mod slots;

#[cfg(test)]
mod tests;
