//! Blobs of a source without files: a stream is served like a file.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use coral_image::{Digest, RepositoryPath, Tag, Version};
use coral_registry::{
    BlobContent, BlobHandle, BlobReader, ManifestRecord, Page, PageQuery, ReadOnlySource,
    ReferrersPage, ReferrersQuery, Settings, Source, StoreError, StoredManifest,
};
use coral_rt::Serving;
use futures::StreamExt as _;
use futures::future::{BoxFuture, ready};
use futures::stream::{self, BoxStream};
use http::StatusCode;
use http_body_util::BodyExt as _;
use hyper::service::Service as _;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::client::{Served, request};
use crate::serving::{answer, ask, serve_at, status_line};

const MIB: u64 = 1 << 20;

/// How the stream of a blob ends.
#[derive(Debug, Clone, Copy, Default)]
enum End {
    /// After the last byte that was requested.
    #[default]
    Right,
    /// With an error, after this many bytes.
    Error(u64),
    /// Early and without an error, after this many bytes.
    Early(u64),
    /// With this many more bytes than were requested.
    Late(u64),
    /// Never: after this many bytes nothing arrives.
    Never(u64),
}

/// One blob in memory, whose bytes are computed from their positions.
#[derive(Debug, Clone, Default)]
struct Memory {
    size: u64,
    piece: u64,
    end: End,
    /// How many bytes were produced.
    made: Arc<AtomicU64>,
    /// Cancelled when a stream is dropped.
    dropped: CancellationToken,
}

impl Memory {
    fn of(size: u64, piece: u64) -> Self {
        Self {
            size,
            piece,
            ..Self::default()
        }
    }

    fn ending(self, end: End) -> Self {
        Self { end, ..self }
    }

    fn bytes(range: Range<u64>) -> Vec<u8> {
        range.map(|at| (at % 251) as u8).collect()
    }

    fn digest() -> Digest {
        Digest::sha256(b"what the source says it is")
    }

    fn target() -> String {
        format!("/v2/memory/blobs/{}", Self::digest())
    }

    /// Serves it as the repository `memory`.
    fn serve(&self) -> Served {
        let served = Served::new();
        served.registry.configure(Settings {
            read_only_sources: [ReadOnlySource {
                repository: RepositoryPath::parse("memory").unwrap(),
                source: Arc::new(self.clone()),
            }]
            .into(),
            ..Settings::default()
        });
        served
    }

    fn made(&self) -> u64 {
        self.made.load(Ordering::SeqCst)
    }
}

impl BlobReader for Memory {
    fn read(&self, range: Range<u64>) -> BoxStream<'static, Result<Bytes, StoreError>> {
        let (memory, dropped) = (self.clone(), self.dropped.clone().drop_guard());
        let (stop, fails) = match self.end {
            End::Right => (range.end, false),
            End::Error(after) => (range.start + after, true),
            End::Early(after) | End::Never(after) => (range.start + after, false),
            End::Late(more) => (range.end + more, false),
        };
        let is_silent = matches!(self.end, End::Never(_));
        let pieces = stream::unfold((range.start, dropped), move |(at, dropped)| {
            let next = stop.min(at + memory.piece);
            memory.made.fetch_add(next - at, Ordering::SeqCst);
            let piece = Bytes::from(Self::bytes(at..next));
            ready((at < next).then_some((Ok(piece), (next, dropped))))
        });
        let failure = fails.then(|| {
            Err(StoreError::Other {
                action: "read object a/b".to_owned(),
                source: "the bucket is gone".into(),
            })
        });
        let all = pieces.chain(stream::iter(failure));
        if is_silent {
            return all.chain(stream::pending()).boxed();
        }
        all.boxed()
    }
}

type Answer<'a, T> = BoxFuture<'a, Result<T, StoreError>>;

impl Source for Memory {
    fn resolve<'a>(
        &'a self,
        _: &'a RepositoryPath,
        _: &'a Version,
    ) -> Answer<'a, Option<ManifestRecord>> {
        Box::pin(ready(Ok(None)))
    }

    fn manifest<'a>(
        &'a self,
        _: &'a RepositoryPath,
        _: &'a Version,
    ) -> Answer<'a, Option<StoredManifest>> {
        Box::pin(ready(Ok(None)))
    }

    fn stat_blob<'a>(
        &'a self,
        _: &'a RepositoryPath,
        digest: &'a Digest,
    ) -> Answer<'a, Option<u64>> {
        Box::pin(ready(Ok((*digest == Self::digest()).then_some(self.size))))
    }

    fn open_blob<'a>(
        &'a self,
        _: &'a RepositoryPath,
        digest: &'a Digest,
    ) -> Answer<'a, Option<BlobHandle>> {
        let blob = BlobHandle {
            size: self.size,
            content: BlobContent::Stream(Arc::new(self.clone())),
        };
        Box::pin(ready(Ok((*digest == Self::digest()).then_some(blob))))
    }

    fn tags<'a>(&'a self, _: &'a RepositoryPath, _: PageQuery) -> Answer<'a, Option<Page<Tag>>> {
        Box::pin(ready(Ok(None)))
    }

    fn referrers<'a>(
        &'a self,
        _: &'a RepositoryPath,
        _: &'a Digest,
        _: ReferrersQuery,
    ) -> Answer<'a, ReferrersPage> {
        Box::pin(ready(Ok(ReferrersPage::default())))
    }

    fn repositories(&self, _: PageQuery) -> Answer<'_, Page<RepositoryPath>> {
        Box::pin(ready(Ok(Page {
            entries: vec![],
            more: false,
        })))
    }
}

#[tokio::test]
async fn a_blob_that_is_in_no_file_is_served_whole_and_by_head() {
    for (size, piece) in [(1_000_000, 70_000), (10, 10), (10, 1), (0, 1)] {
        let served = Memory::of(size, piece).serve();
        let whole = served.get(&Memory::target()).await;
        assert_eq!(whole.status, StatusCode::OK);
        assert!(whole.body == Memory::bytes(0..size), "{size} by {piece}");
        let head = served.send("HEAD", &Memory::target(), b"").await;
        assert_eq!(head.status, StatusCode::OK);
        assert_eq!(head.header("content-length"), size.to_string());
        for header in [
            "content-length",
            "docker-content-digest",
            "etag",
            "accept-ranges",
        ] {
            assert_eq!(head.header(header), whole.header(header), "{header}");
        }
    }
}

#[tokio::test]
async fn ranges_of_a_stream_are_parts_and_what_is_outside_is_416() {
    let memory = Memory::of(1_000_000, 70_000);
    let served = memory.serve();
    let get = async |range: &str| {
        let asked = request("GET", &Memory::target(), &[("range", range)], b"");
        served.ask(asked).await
    };
    for (range, expected) in [
        ("bytes=0-0", 0..1),
        ("bytes=69999-70000", 69_999..70_001),
        ("bytes=999000-", 999_000..1_000_000),
        ("bytes=-5", 999_995..1_000_000),
    ] {
        let before = memory.made();
        let part = get(range).await;
        assert_eq!(part.status, StatusCode::PARTIAL_CONTENT, "{range}");
        let content_range = format!("bytes {}-{}/1000000", expected.start, expected.end - 1);
        assert_eq!(part.header("content-range"), content_range);
        // No more is read than was requested.
        assert_eq!(memory.made() - before, expected.end - expected.start);
        assert!(part.body == Memory::bytes(expected), "{range}");
    }
    let before = memory.made();
    let outside = get("bytes=1000000-").await;
    assert_eq!(outside.status, StatusCode::RANGE_NOT_SATISFIABLE);
    assert_eq!(outside.header("content-range"), "bytes */1000000");
    let etag = format!("\"{}\"", Memory::digest());
    let asked = request(
        "GET",
        &Memory::target(),
        &[("if-none-match", etag.as_str())],
        b"",
    );
    assert_eq!(served.ask(asked).await.status, StatusCode::NOT_MODIFIED);
    assert_eq!(memory.made(), before);
}

#[tokio::test]
async fn a_repository_of_a_source_is_listed_and_takes_no_writes() {
    let served = Memory::of(10, 10).serve();
    served.push("other", b"x").await;
    let listed = served.get("/v2/_catalog").await;
    assert_eq!(listed.json()["repositories"][0], "memory");
    let refused = served.send("POST", "/v2/memory/blobs/uploads/", b"").await;
    assert_eq!(refused.status, StatusCode::METHOD_NOT_ALLOWED);
    let refused = served.send("DELETE", &Memory::target(), b"").await;
    assert_eq!(refused.status, StatusCode::METHOD_NOT_ALLOWED);
    assert_eq!(served.get(&Memory::target()).await.body.len(), 10);
}

/// All bytes that arrive over a connection that the server has to close, because its client keeps
/// it open.
async fn until_cut(memory: &Memory) -> Vec<u8> {
    let served = memory.serve();
    let (address, _shutdown, _server) = serve_at(&served, Serving::default()).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    let head = format!("GET {} HTTP/1.1\r\nhost: a\r\n\r\n", Memory::target());
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut all = Vec::new();
    let read = tokio::time::timeout(Duration::from_mins(1), stream.read_to_end(&mut all));
    // A reset also counts as an end.
    let _ = read.await.unwrap();
    all
}

#[tokio::test]
async fn an_error_or_an_early_end_cuts_the_connection_and_no_short_answer_passes_for_whole() {
    let after = 3_000_000;
    for end in [End::Error(after), End::Early(after)] {
        let all = until_cut(&Memory::of(4_000_000, 70_000).ending(end)).await;
        let body = all.windows(4).position(|four| four == b"\r\n\r\n").unwrap() + 4;
        let head = std::str::from_utf8(&all[..body]).unwrap();
        assert!(head.starts_with("HTTP/1.1 200 OK"), "{head}");
        assert!(head.contains("content-length: 4000000\r\n"), "{head}");
        let length = (all.len() - body) as u64;
        assert!(length <= after, "{end:?}: {length}");
        assert!(all[body..] == Memory::bytes(0..length), "{end:?}");
    }
    // Before the first byte, the head may or may not have been sent, but nothing else.
    for end in [End::Error(0), End::Early(0)] {
        let all = until_cut(&Memory::of(1_000_000, 70_000).ending(end)).await;
        assert!(all.is_empty() || all.ends_with(b"\r\n\r\n"), "{end:?}");
    }
}

/// The bytes of the answer until it is cut off, and the time until then by the paused clock.
async fn cut_off(memory: &Memory) -> (u64, Duration) {
    let served = memory.serve();
    let asked = request("GET", &Memory::target(), &[], b"");
    let service = TowerToHyperService::new(served.router());
    let mut body = service.call(asked).await.unwrap().into_body();
    let (began, mut length) = (Instant::now(), 0);
    loop {
        match body.frame().await.expect("an end that is none") {
            Ok(frame) => length += frame.into_data().unwrap().len() as u64,
            Err(_) => return (length, began.elapsed()),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_source_that_falls_silent_is_given_up() {
    for after in [0, 700_000] {
        let memory = Memory::of(1_000_000, 70_000).ending(End::Never(after));
        let (length, waited) = cut_off(&memory).await;
        assert_eq!(length, after);
        let minute = Duration::from_mins(1);
        assert!((minute..5 * minute).contains(&waited), "{waited:?}");
        assert!(memory.dropped.is_cancelled());
    }
}

#[tokio::test]
async fn what_a_stream_has_too_much_is_not_sent() {
    let memory = Memory::of(1_000_000, 70_000).ending(End::Late(100_000));
    let served = memory.serve();
    let (address, _shutdown, _server) = serve_at(&served, Serving::default()).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    ask(&mut stream, &Memory::target(), "").await;
    let (_, body) = answer(&mut stream).await;
    assert!(body == Memory::bytes(0..1_000_000));
}

#[tokio::test]
async fn a_stream_is_read_no_faster_than_its_client_reads() {
    let memory = Memory::of(256 * MIB, MIB);
    let served = memory.serve();
    let (address, _shutdown, _server) = serve_at(&served, Serving::default()).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    ask(&mut stream, &Memory::target(), "").await;
    assert_eq!(status_line(&mut stream).await, "HTTP/1.1 200 OK\r\n");
    let mut piece = vec![0; 1 << 20];
    for read in 1..64 {
        stream.read_exact(&mut piece).await.unwrap();
        // The bytes that the system and the connection buffer.
        let made = memory.made();
        assert!(
            made <= (read + 64) * MIB,
            "{made} bytes made, {read} MiB read"
        );
    }
    // A client that goes away ends the stream.
    drop(stream);
    let dropped = tokio::time::timeout(Duration::from_mins(1), memory.dropped.cancelled());
    dropped.await.unwrap();
    assert!(memory.made() < 256 * MIB);
}
