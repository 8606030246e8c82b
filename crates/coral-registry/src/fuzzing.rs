//! What the fuzz targets ask of parsers that nobody else sees. Only built with `--cfg fuzzing`.

pub use crate::access::fuzzing::{authorization, htpasswd};
pub use crate::front::fuzzing::{range, target};
pub use crate::layout::fuzzing::index;
