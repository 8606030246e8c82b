//! Requests that no sane client sends, beside connections that never finish: none may get a 5xx,
//! and the registry keeps working.

#[path = "registry/server.rs"]
mod server;
#[path = "registry/slow.rs"]
mod slow;
#[path = "registry/wire.rs"]
mod wire;

use e2e::{report, scratch, sha256};
use server::Server;
use slow::{LARGE, Slow};
use wire::Wire;

const LEAST: usize = 150;
const SLOW: usize = 50;

/// What is sent, and whether the head may be so broken that a closed connection is an answer too.
struct Attempt {
    bytes: Vec<u8>,
    may_close: bool,
}

fn whole(method: &str, target: &str, headers: &[(&str, &str)], body: &[u8]) -> Attempt {
    let mut lines = vec![format!("{method} {target} HTTP/1.1")];
    lines.extend(["Host: localhost", "Connection: close"].map(str::to_owned));
    lines.extend(
        headers
            .iter()
            .map(|(name, value)| format!("{name}: {value}")),
    );
    let announced = headers.iter().any(|(name, _)| {
        name.eq_ignore_ascii_case("content-length")
            || name.eq_ignore_ascii_case("transfer-encoding")
    });
    if !announced {
        lines.push(format!("Content-Length: {}", body.len()));
    }
    let head = lines.join("\r\n") + "\r\n\r\n";
    Attempt {
        bytes: [head.as_bytes(), body].concat(),
        may_close: false,
    }
}

fn broken(bytes: impl Into<Vec<u8>>) -> Attempt {
    Attempt {
        bytes: bytes.into(),
        may_close: true,
    }
}

fn long(letter: &str, count: usize) -> String {
    letter.repeat(count)
}

/// Names of repositories, one worse than the other.
fn bad_names() -> Vec<String> {
    let mut names: Vec<String> = [
        "A",
        "a//b",
        "-a",
        "a-",
        ".a",
        "a.",
        "_a",
        "a___b",
        "a/../b",
        "../../etc/passwd",
        "..",
        ".",
        "a/./b",
        "a%2f..%2fb",
        "%2e%2e/%2e%2e/x",
        "a%00b",
        "%ff%fe",
        "%zz",
        "%",
        "%2",
        "a%0d%0aX-Evil:%201",
        "a:b",
        "a@b",
        "a+b",
        "a~b",
        "_tags",
        "a/_manifests",
        "uploads",
        "blobs/uploads",
        "tags/list",
        "%F0%9F%90%99",
        "a%20b",
        "a\\b",
        "*",
        "a;b",
        "a&b",
        "a'b",
        "$(id)",
    ]
    .map(str::to_owned)
    .to_vec();
    names.extend([
        long("a", 256),
        long("a/", 4000) + "a",
        long("a", 7000),
        long("%61", 300),
    ]);
    names
}

fn bad_digests() -> Vec<String> {
    let mut digests: Vec<String> = [
        "sha256:baddigest",
        "sha256:",
        "sha256",
        ":",
        "sha256:ABCDEF",
        "md5:d41d8cd98f00b204e9800998ecf8427e",
        "sha1:da39a3ee5e6b4b0d3255bfef95601890afd80709",
        "sha256:../../../../etc/passwd",
        "sha256:..%2f..%2fetc",
        "sha256%3A..",
        "%00",
        "sha256:%00",
        "latest",
        "..",
    ]
    .map(str::to_owned)
    .to_vec();
    digests.extend([
        format!("sha256:{}", long("a", 63)),
        format!("sha256:{}", long("a", 65)),
        format!("sha256:{}", long("A", 64)),
        format!("sha256:{}", long("g", 64)),
        format!("sha512:{}", long("a", 64)),
        format!("sha384:{}", long("a", 96)),
        format!("sha256:{}", long("a", 9000)),
    ]);
    digests
}

fn bad_references() -> Vec<String> {
    let mut references: Vec<String> = [
        "-a", ".a", "a:b:c", "a%2fb", "..", "%2e%2e", "%00", "a%00", "a b", "a\tb", "%ff",
        "@sha256:", "a@b", "*", "a~1",
    ]
    .map(|text| text.replace(' ', "%20").replace('\t', "%09"))
    .to_vec();
    references.extend([long("a", 129), long("a", 8000)]);
    references
}

fn bad_manifests() -> Vec<Vec<u8>> {
    let digest = sha256(b"nothing");
    let kind = "application/vnd.oci.image.manifest.v1+json";
    let config = |size: &str| {
        format!(
            r#"{{"schemaVersion":2,"config":{{"mediaType":"x","digest":"{digest}","size":{size}}},"layers":[]}}"#
        )
    };
    let texts = [
        String::new(),
        "{".into(),
        "[]".into(),
        "null".into(),
        "{}".into(),
        "\"text\"".into(),
        "1".into(),
        "\u{feff}{}".into(),
        r#"{"schemaVersion":1}"#.into(),
        r#"{"schemaVersion":"2","config":{},"layers":[]}"#.into(),
        r#"{"schemaVersion":2,"config":null,"layers":null}"#.into(),
        r#"{"schemaVersion":2,"config":[],"layers":{}}"#.into(),
        r#"{"schemaVersion":2,"mediaType":7,"config":{},"layers":[]}"#.into(),
        r#"{"schemaVersion":2,"manifests":{}}"#.into(),
        r#"{"schemaVersion":2,"manifests":[{"digest":"sha256:x","size":1}]}"#.into(),
        config("-1"),
        config("1e400"),
        config("18446744073709551616"),
        config("\"1\""),
        config("5"),
        long("[", 100_000),
        long(r#"{"config":"#, 50_000),
        format!(r#"{{"mediaType":"{kind}; charset=\r\nX: y","schemaVersion":2}}"#),
        r#"{"mediaType":"a\u0000b","schemaVersion":2}"#.into(),
        r#"{"mediaType":"a\r\nX-Evil: 1","schemaVersion":2}"#.into(),
    ];
    let mut manifests: Vec<Vec<u8>> = texts.map(String::into_bytes).to_vec();
    manifests.push(vec![0xff; 64]);
    manifests.push(vec![b' '; 4 * 1024 * 1024 + 1]);
    manifests.push(vec![0; 1024]);
    manifests
}

fn paths() -> Vec<Attempt> {
    let good = sha256(b"nothing");
    let mut attempts = Vec::new();
    for name in bad_names() {
        attempts.push(whole("GET", &format!("/v2/{name}/tags/list"), &[], b""));
        attempts.push(whole("PUT", &format!("/v2/{name}/manifests/x"), &[], b"{}"));
        attempts.push(whole(
            "POST",
            &format!("/v2/{name}/blobs/uploads/"),
            &[],
            b"",
        ));
        let mount = format!("/v2/a/blobs/uploads/?mount={good}&from={name}");
        attempts.push(whole("POST", &mount, &[], b""));
    }
    for digest in bad_digests() {
        for method in ["GET", "HEAD", "DELETE"] {
            attempts.push(whole(method, &format!("/v2/a/blobs/{digest}"), &[], b""));
        }
        attempts.push(whole("GET", &format!("/v2/a/referrers/{digest}"), &[], b""));
        attempts.push(whole(
            "PUT",
            &format!("/v2/a/manifests/{digest}"),
            &[],
            b"{}",
        ));
        for parameter in ["mount", "digest"] {
            let target = format!("/v2/a/blobs/uploads/?{parameter}={digest}");
            attempts.push(whole("POST", &target, &[], b"body"));
        }
    }
    for reference in bad_references() {
        for method in ["GET", "HEAD", "PUT", "DELETE"] {
            let target = format!("/v2/a/manifests/{reference}");
            attempts.push(whole(method, &target, &[], b"{}"));
        }
        let target = format!("/v2/a/manifests/{good}?tag={reference}");
        attempts.push(whole("PUT", &target, &[], b"{}"));
    }
    attempts
}

fn contents() -> Vec<Attempt> {
    let mut attempts = Vec::new();
    for manifest in bad_manifests() {
        attempts.push(whole("PUT", "/v2/a/manifests/x", &[], &manifest));
        let typed = [("Content-Type", "application/vnd.oci.image.manifest.v1+json")];
        attempts.push(whole("PUT", "/v2/a/manifests/x", &typed, &manifest));
    }
    for kind in ["", "/", "a", "text/html", "\u{e9}", "a/b; \u{1}", "x/y"] {
        let typed = [("Content-Type", kind)];
        attempts.push(whole(
            "PUT",
            "/v2/a/manifests/x",
            &typed,
            b"{\"config\":{}}",
        ));
    }
    attempts
}

fn parameters() -> Vec<Attempt> {
    let mut attempts = Vec::new();
    for value in [
        "-1",
        "x",
        "1.5",
        "99999999999999999999999",
        "%00",
        "%ff",
        "+1",
        "1%20",
        "",
        "0",
    ] {
        for path in ["/v2/a/tags/list", "/v2/_catalog"] {
            attempts.push(whole("GET", &format!("{path}?n={value}"), &[], b""));
            attempts.push(whole("GET", &format!("{path}?last={value}"), &[], b""));
        }
    }
    let subject = sha256(b"nothing");
    for kind in ["%ff", "%0d%0aX:1", "%00", "a&artifactType=b"] {
        let target = format!("/v2/a/referrers/{subject}?artifactType={kind}");
        attempts.push(whole("GET", &target, &[], b""));
    }
    attempts
}

/// Requests around one blob and one upload that exist.
fn ranges(blob: &str, upload: &str) -> Vec<Attempt> {
    let mut attempts = Vec::new();
    for range in [
        "bytes=",
        "bytes=-",
        "bytes=-0",
        "bytes=5-1",
        "bytes=a-b",
        "bytes=0-1,2-3",
        "bytes=99999999999999999999-",
        "bytes=0-99999999999999999999",
        "bytes=-99999999999999999999",
        "bytes=18446744073709551615-18446744073709551615",
        "bytes=0",
        "bytes=--1",
        "bytes= 0 - 1",
        "lines=0-1",
        "\u{e9}",
    ] {
        attempts.push(whole("GET", blob, &[("Range", range)], b""));
    }
    for range in [
        "",
        "x",
        "5-1",
        "-1",
        "1-",
        "-",
        "0-18446744073709551615",
        "18446744073709551615-0",
        "bytes 0-1/2",
        "99-100",
        "0-5,6-7",
        "99999999999999999999-99999999999999999999",
    ] {
        let headers = [("Content-Range", range)];
        attempts.push(whole("PATCH", upload, &headers, b"ab"));
        let finish = format!("{upload}?digest={}", sha256(b"x"));
        attempts.push(whole("PUT", &finish, &headers, b"ab"));
    }
    attempts
}

fn uploads(upload: &str) -> Vec<Attempt> {
    let mut attempts = Vec::new();
    for id in [
        "x",
        "..",
        "%2e%2e",
        "%00",
        "00000000-0000-0000-0000-000000000000",
        "00000000000000000000000000000000",
        "{00000000-0000-0000-0000-000000000000}",
    ] {
        for method in ["GET", "PATCH", "PUT", "DELETE"] {
            let target = format!("/v2/a/blobs/uploads/{id}");
            attempts.push(whole(method, &target, &[], b"x"));
        }
    }
    attempts.push(whole("PUT", upload, &[], b""));
    attempts.push(whole("PUT", &format!("{upload}?digest="), &[], b""));
    let elsewhere = upload.replace("/v2/a/", "/v2/b/");
    attempts.push(whole("PATCH", &elsewhere, &[], b"x"));
    let chunked = [("Transfer-Encoding", "chunked")];
    for body in ["zz\r\n", "5\r\nab", "-1\r\n\r\n", "ffffffffffffffffff\r\n"] {
        let mut attempt = whole("PATCH", upload, &chunked, body.as_bytes());
        attempt.may_close = true;
        attempts.push(attempt);
    }
    let mut cut = whole("PATCH", upload, &[("Content-Length", "100")], b"short");
    cut.may_close = true;
    attempts.push(cut);
    let algorithm = "/v2/a/blobs/uploads/?digest-algorithm=md5";
    attempts.push(whole("POST", algorithm, &[], b""));
    attempts
}

fn methods() -> Vec<Attempt> {
    let digest = sha256(b"nothing");
    let mut attempts = Vec::new();
    for path in [
        "/v2/".to_owned(),
        "/v2/_catalog".to_owned(),
        "/v2/a/tags/list".to_owned(),
        format!("/v2/a/blobs/{digest}"),
        format!("/v2/a/referrers/{digest}"),
        "/v2/a/manifests/x".to_owned(),
        "/v2/a/blobs/uploads/".to_owned(),
    ] {
        for method in ["PATCH", "OPTIONS", "TRACE", "BREW"] {
            attempts.push(whole(method, &path, &[], b""));
        }
    }
    attempts
}

fn heads() -> Vec<Attempt> {
    let header = |text: &str| format!("GET /v2/ HTTP/1.1\r\nHost: localhost\r\n{text}\r\n\r\n");
    vec![
        broken(""),
        broken("\r\n\r\n"),
        broken("GET\r\n\r\n"),
        broken("GET /v2/\r\n\r\n"),
        broken("GET /v2/ HTTP/9.9\r\n\r\n"),
        broken("GET  /v2/ HTTP/1.1\r\n\r\n"),
        broken("G\u{1}T /v2/ HTTP/1.1\r\n\r\n"),
        broken("GET /v2/\u{1} HTTP/1.1\r\nHost: localhost\r\n\r\n"),
        broken("GET http:// HTTP/1.1\r\nHost: localhost\r\n\r\n"),
        broken("CONNECT a:1 HTTP/1.1\r\nHost: localhost\r\n\r\n"),
        broken("GET * HTTP/1.1\r\nHost: localhost\r\n\r\n"),
        broken(vec![0; 200]),
        broken(vec![0xff; 200]),
        broken(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec()),
        broken("PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n"),
        broken(header("Content-Length: -1")),
        broken(header("Content-Length: x")),
        broken(header("Content-Length: 1\r\nContent-Length: 2")),
        broken(header("Content-Length: 5\r\nTransfer-Encoding: chunked")),
        broken(header("Transfer-Encoding: gzip")),
        broken(header("no colon")),
        broken(header(": no name")),
        broken(header(" folded: line")),
        broken(header(&format!("X: {}", long("a", 1_000_000)))),
        broken(header(&long("X: a\r\n", 5000))),
        broken(format!("GET /v2/{} HTTP/1.1\r\n\r\n", long("a", 100_000))),
    ]
}

/// The status; `None` if the connection was closed without an answer.
fn status_of(address: &str, attempt: &Attempt) -> Option<u16> {
    let mut wire = Wire::connect(address).expect("the registry accepts connections");
    // A server may refuse a monstrous head before it has all of it.
    let sent = wire.send(&attempt.bytes);
    if attempt.may_close {
        wire.finish_sending();
    }
    let reply = wire.reply(attempt.bytes.starts_with(b"HEAD"));
    match reply {
        Ok(reply) => Some(reply.status),
        Err(_) if attempt.may_close || sent.is_err() => None,
        Err(error) => panic!("no answer to {}: {error}", shown(attempt)),
    }
}

fn shown(attempt: &Attempt) -> String {
    let head = &attempt.bytes[..attempt.bytes.len().min(200)];
    format!("{:?}", String::from_utf8_lossy(head))
}

/// A blob and an upload, as targets.
fn prepare(address: &str) -> (String, String) {
    let mut wire = Wire::connect(address).expect("the registry accepts connections");
    let body = b"0123456789";
    let target = format!("/v2/a/blobs/uploads/?digest={}", sha256(body));
    let pushed = wire.call("POST", &target, &[], body).expect("an answer");
    assert_eq!(pushed.status, 201);
    let begun = wire.call("POST", "/v2/a/blobs/uploads/", &[], b"");
    let begun = begun.expect("an answer");
    assert_eq!(begun.status, 202);
    (
        format!("/v2/a/blobs/{}", sha256(body)),
        begun.location().to_owned(),
    )
}

/// A blob that a client which does not read cannot be done with.
fn push_large(address: &str) -> String {
    let mut wire = Wire::connect(address).expect("the registry accepts connections");
    let body = vec![7; LARGE];
    let target = format!("/v2/a/blobs/uploads/?digest={}", sha256(&body));
    let pushed = wire.call("POST", &target, &[], &body).expect("an answer");
    assert_eq!(pushed.status, 201);
    format!("/v2/a/blobs/{}", sha256(&body))
}

#[test]
#[ignore = "needs the release binary; run by cargo xtask test"]
fn no_malformed_request_gets_a_server_error() {
    let folder = scratch();
    let mut registry = Server::start(&folder.path().join("storage"));
    let (blob, upload) = prepare(&registry.address);
    let attempts: Vec<Attempt> = [
        paths(),
        contents(),
        parameters(),
        ranges(&blob, &upload),
        uploads(&upload),
        methods(),
        heads(),
    ]
    .into_iter()
    .flatten()
    .collect();
    let mut slow = Slow::start(&registry.address, SLOW, &push_large(&registry.address));
    let mut good = Wire::connect(&registry.address).expect("it accepts connections");
    let mut bad = Vec::new();
    let mut closed = 0;
    for attempt in &attempts {
        slow.drip();
        let whole = good.call("GET", &blob, &[], b"").expect("an answer");
        assert_eq!((whole.status, &*whole.body), (200, &b"0123456789"[..]));
        match status_of(&registry.address, attempt) {
            Some(status @ 500..) => bad.push(format!("{status}: {}", shown(attempt))),
            Some(_) => {}
            None => closed += 1,
        }
    }
    // All of it takes less time than the registry gives to any of them.
    slow.finish();
    assert!(bad.is_empty(), "{} server errors: {bad:#?}", bad.len());
    assert!(attempts.len() >= LEAST, "only {} requests", attempts.len());
    assert!(registry.process.is_running());
    let mut wire = Wire::connect(&registry.address).expect("it still accepts connections");
    let still = wire.call("GET", &blob, &[], b"").expect("it still answers");
    assert_eq!(
        (still.status, still.body.as_slice()),
        (200, &b"0123456789"[..])
    );
    report!(
        "malformed requests: {} sent beside {SLOW} slow connections, 0 server errors, {closed} \
         closed without an answer; all of the slow ones were answered in the end",
        attempts.len()
    );
}
