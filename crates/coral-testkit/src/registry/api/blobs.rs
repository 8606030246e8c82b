//! Blobs, whole and in ranges.

use coral_image::Digest;

use super::BufferedRequest;
use crate::registry::reply::Reply;
use crate::registry::store::Store;

pub(super) fn get(store: &Store, path: &str, digest: &str, request: &BufferedRequest) -> Reply {
    let Ok(digest) = Digest::parse(digest) else {
        return Reply::error(400, "DIGEST_INVALID", "provided digest is malformed");
    };
    let Some(blob) = store.repository(path).and_then(|r| r.blobs.get(&digest)) else {
        return Reply::error(404, "BLOB_UNKNOWN", "blob unknown to registry");
    };
    let reply = Reply::new(200)
        .header("content-type", "application/octet-stream")
        .header("docker-content-digest", digest.to_string())
        .header("accept-ranges", "bytes")
        .body(blob.clone());
    match request
        .header("range")
        .map(|range| parse_range(range, blob.len()))
    {
        None | Some(None) => reply,
        Some(Some((start, end))) if start < end => {
            let range = format!("bytes {start}-{}/{}", end - 1, blob.len());
            let mut part = Reply::new(206).header("content-range", range);
            part.headers.extend(reply.headers);
            part.body(blob.slice(start..end))
        }
        Some(Some(_)) => Reply::error(416, "RANGE_INVALID", "range not satisfiable")
            .header("content-range", format!("bytes */{}", blob.len())),
    }
}

pub(super) fn delete(store: &mut Store, path: &str, digest: &str) -> Reply {
    let digest = Digest::parse(digest);
    if digest.is_ok_and(|digest| store.make(path).blobs.remove(&digest).is_some()) {
        return Reply::new(202);
    }
    Reply::error(404, "BLOB_UNKNOWN", "blob unknown to registry")
}

/// The half-open range that `bytes=a-b`, `bytes=a-` or `bytes=-n` means in `length` bytes; none
/// for a header to be ignored, an empty one for what cannot be had.
fn parse_range(text: &str, length: usize) -> Option<(usize, usize)> {
    let (start, end) = text.strip_prefix("bytes=")?.split_once('-')?;
    if start.is_empty() {
        return Some((length.saturating_sub(end.parse().ok()?), length));
    }
    let start: usize = start.parse().ok()?;
    let end = if end.is_empty() {
        length
    } else {
        end.parse::<usize>().ok()?.saturating_add(1)
    };
    Some((start.min(length), end.min(length)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_as_http_means_them() {
        assert_eq!(parse_range("bytes=2-", 10), Some((2, 10)));
        assert_eq!(parse_range("bytes=2-3", 10), Some((2, 4)));
        assert_eq!(parse_range("bytes=2-99", 10), Some((2, 10)));
        assert_eq!(parse_range("bytes=-3", 10), Some((7, 10)));
        assert_eq!(parse_range("bytes=10-", 10), Some((10, 10)));
        assert_eq!(parse_range("lines=1-2", 10), None);
    }
}
