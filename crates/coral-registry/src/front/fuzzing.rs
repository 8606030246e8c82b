//! Entry points for the fuzz targets of the parsers of requests. Only built with `--cfg fuzzing`.

use super::query::{Query, encode};
use super::range::{Wanted, content_range};
use super::route::Route;

/// An accepted `Range` lies inside the content; a `Content-Range` that was parsed, written and
/// parsed again is the same.
pub fn range(header: &str, size: u64) {
    if let Wanted::Part(span) = Wanted::parse(Some(header), size) {
        assert!(span.length > 0 && span.last() < size, "{header} of {size}");
        let again = format!("bytes={}-{}", span.start, span.last());
        assert_eq!(Wanted::parse(Some(&again), size), Wanted::Part(span));
    }
    if let Some(span) = content_range(header) {
        assert!(span.length > 0);
        let again = format!("{}-{}", span.start, span.last());
        assert_eq!(content_range(&again), Some(span));
    }
}

/// Any path and query of a request.
pub fn target(target: &str) {
    let (path, query) = match target.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (target, None),
    };
    if let Ok(route) = Route::parse(path) {
        assert!(!route.methods().is_empty());
        let _ = route.class();
    }
    let query = Query::parse(query);
    for name in ["n", "last", "digest", "mount", "from", "tag"] {
        if let Some(value) = query.get(name) {
            let again = Query::parse(Some(&format!("{name}={}", encode(value))));
            assert_eq!(again.get(name), Some(value));
        }
    }
}
