//! The limit of open files.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Raises the soft limit of open files (`ulimit -n`) to the hard one, and returns the new limit;
/// `None` is no limit. Each connection is an open file, and the usual soft limit of 1024 is there
/// for programs that use `select`.
pub fn raise_open_file_limit() -> Option<u64> {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    match setrlimit(Resource::Nofile, raised) {
        Ok(()) => limit.maximum,
        // Some sandboxes forbid it; then the soft limit remains.
        Err(_) => limit.current,
    }
}
