//! The images of the node: what to pull, name, pin and remove.
//!
//! The runtime is asked each time which images exist; what the agent did to a name is recorded on
//! the name itself, as a label, so that it survives the agent ([`mark::LABEL`]). Memory and the
//! status of NodeImages hold only failures and the times of their retries.

pub(crate) mod attempt;
pub(crate) mod decide;
pub(crate) mod mark;
pub(crate) mod names;
pub(crate) mod remove;
pub(crate) mod slots;

#[cfg(test)]
mod tests;
