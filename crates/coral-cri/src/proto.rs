//! The messages of CRI v1 and of containerd's services that Coral uses, with the field numbers of
//! the published API. Fields that are not read are omitted: decoding skips them.

pub(crate) mod containerd;
pub(crate) mod cri;
