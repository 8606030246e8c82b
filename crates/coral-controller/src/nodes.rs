//! Nodes: the desired images of each, and the statuses that report on them.
//!
//! This part is the one writer of the specs of `NodeImages` and of Coral's labels on nodes, and of
//! the statuses of `Image` and `RegistryRoute`. Everything in `placement`, `labels`, `image_status`,
//! `resolution`, `routes` and `shares` is pure. Start reading at [`NodesPart`] and [`placement::place`].

mod agents;
#[cfg(test)]
mod fixtures;
mod image_status;
mod input;
mod labels;
mod lookups;
mod observe;
mod part;
mod placement;
mod reported;
mod resolution;
mod resolver;
mod routes;
mod shares;

pub(crate) use part::NodesPart;
