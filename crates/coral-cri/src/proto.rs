//! The messages of CRI v1 and of containerd's services that are in use, with the field numbers of
//! the published API. Fields that are not read are left out: decoding skips them.

pub(crate) mod containerd;
pub(crate) mod cri;
