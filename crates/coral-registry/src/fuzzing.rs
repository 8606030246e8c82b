//! Access for the fuzz targets to private parsers. Only built with `--cfg fuzzing`.

pub use crate::access::fuzzing::{authorization, htpasswd};
pub use crate::front::fuzzing::{range, target};
pub use crate::layout::fuzzing::index;
