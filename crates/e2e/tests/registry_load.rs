//! Many clients at once: what they cost, and what clients above the limit get.

#[path = "registry/server.rs"]
mod server;
#[path = "up/usage.rs"]
mod usage;
#[path = "registry/wire.rs"]
mod wire;

use std::process::Command;
use std::thread;
use std::time::Duration;

use e2e::http;
use e2e::{coral, report, scratch, until};
use server::{Server, arguments};
use wire::{Reply, Wire};

const PUSHES: usize = 64;
const PIECE: usize = 1024 * 1024;
const PIECES: usize = 16;
/// For all of these pushes, in KiB of memory that no file stands behind.
const MOST: u64 = 32 * 1024;
const SOON: Duration = Duration::from_mins(2);

fn ask(wire: &mut Wire, method: &str, target: &str) -> Reply {
    wire.call(method, target, &[], b"").expect("an answer")
}

/// Sends a large piece of an upload, and returns the most memory that the process had meanwhile.
fn push(address: &str, pid: u32) -> u64 {
    let mut wire = Wire::connect(address).expect("it listens");
    let upload = ask(&mut wire, "POST", "/v2/a/blobs/uploads/");
    let upload = upload.location().to_owned();
    let length = PIECE * PIECES;
    let head =
        format!("PATCH {upload} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n");
    wire.send(head.as_bytes()).expect("it listens");
    let content = vec![0x5a; PIECE];
    let memory = (0..PIECES).map(|_| {
        wire.send(&content).expect("it takes everything");
        usage::anonymous(pid)
    });
    let most = memory.max().unwrap_or_default();
    assert_eq!(wire.reply(false).expect("an answer").status, 202);
    assert_eq!(ask(&mut wire, "DELETE", &upload).status, 204);
    most
}

#[test]
#[ignore = "needs the release binary; run by cargo xtask test"]
fn many_large_pushes_at_once_share_the_memory_that_there_is() {
    let folder = scratch();
    let registry = Server::start(&folder.path().join("storage"));
    let (address, pid) = (registry.address.as_str(), registry.process.pid());
    let most = thread::scope(|scope| {
        let pushes = (0..PUSHES).map(|_| scope.spawn(|| push(address, pid)));
        let pushes: Vec<_> = pushes.collect();
        let ended = pushes.into_iter().map(|push| push.join().expect("it ends"));
        ended.max().unwrap_or_default()
    });
    report!("{PUSHES} pushes of {PIECES} MiB at once: at most {most} KiB of anonymous memory");
    assert!(most <= MOST, "{most} KiB");
}

#[test]
#[ignore = "needs the release binary; run by cargo xtask test"]
fn a_connection_too_many_is_refused_and_the_log_says_so_once() {
    let folder = scratch();
    let mut command = coral();
    command.args(arguments(&folder.path().join("storage")));
    let mut registry = Server::start_with(command.args(["--max-connections", "1"]));
    let mut first = Wire::connect(&registry.address).expect("it listens");
    assert_eq!(ask(&mut first, "GET", "/v2/").status, 200);
    for _ in 0..3 {
        let mut other = Wire::connect(&registry.address).expect("it listens");
        let refused = ask(&mut other, "GET", "/v2/");
        assert_eq!(refused.status, 503);
        assert_eq!(refused.header("retry-after"), Some("5"));
        let body = String::from_utf8_lossy(&refused.body).into_owned();
        assert!(body.contains("TOOMANYREQUESTS"), "{body}");
    }
    // Who has a place keeps it.
    assert_eq!(ask(&mut first, "GET", "/v2/").status, 200);
    drop(first);
    until("a place", SOON, || {
        let mut other = Wire::connect(&registry.address).ok()?;
        let reply = other.call("GET", "/v2/", &[], b"").ok()?;
        (reply.status == 200).then_some(())
    });
    registry.process.signal("TERM");
    registry.process.wait(SOON);
    let shown = registry.process.shown();
    assert_eq!(shown.matches("--max-connections").count(), 1, "{shown}");
    assert!(shown.contains("address=127.0.0.1"), "{shown}");
}

/// Regression: one client without a login took every connection, and the health endpoint with them.
#[test]
#[ignore = "needs curl; run by cargo xtask test"]
fn one_address_takes_neither_all_connections_nor_the_health_endpoint() {
    let folder = scratch();
    let mut command = coral();
    command.args(arguments(&folder.path().join("storage")));
    let registry = Server::start_with(command.args(["--max-connections", "60"]));
    let url = |path: &str| format!("http://{}{path}", registry.address);
    let mut held = Vec::new();
    for _ in 0..60 {
        let mut wire = Wire::connect(&registry.address).expect("it listens");
        wire.send(b"GET /v2/ HTTP/1.1\r\nx: ").expect("it listens");
        held.push(wire);
    }
    for path in ["/healthz", "/readyz", "/metrics"] {
        // The reserve is free again after the two seconds that its clients have.
        until(path, SOON, || {
            (http::get(&url(path)).status == 200).then_some(())
        });
    }
    let other = http::request(&["--interface", "127.0.0.2", &url("/v2/")]);
    assert_eq!(other.status, 200);
    let shown = registry.process.shown();
    assert!(shown.contains("address=127.0.0.1"), "{shown}");
}

/// The limits of open files of a process: soft and hard.
fn open_files(pid: u32) -> (u64, u64) {
    let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).expect("it runs");
    let line = limits
        .lines()
        .find(|line| line.starts_with("Max open files"));
    let mut numbers = line
        .expect("the kernel names it")
        .split_whitespace()
        .skip(3);
    let mut next = || numbers.next()?.parse().ok();
    (next().unwrap_or_default(), next().unwrap_or_default())
}

#[test]
#[ignore = "needs the release binary; run by cargo xtask test"]
fn the_limit_of_open_files_is_raised_and_a_failing_accept_is_logged_once() {
    let folder = scratch();
    let mut command = Command::new("sh");
    command.args(["-c", "ulimit -Sn 30; ulimit -Hn 40; exec \"$0\" \"$@\""]);
    command.arg(coral().get_program());
    command.args(arguments(&folder.path().join("storage")));
    let mut registry = Server::start_with(&mut command);
    assert_eq!(open_files(registry.process.pid()), (40, 40));
    let connections = (0..60).map(|_| Wire::connect(&registry.address));
    let held: Vec<_> = connections.collect();
    registry.process.wait_for_line("cannot accept", SOON);
    drop(held);
    until("a connection", SOON, || {
        let mut wire = Wire::connect(&registry.address).ok()?;
        let reply = wire.call("GET", "/v2/", &[], b"").ok()?;
        (reply.status == 200).then_some(())
    });
    let shown = registry.process.shown();
    assert_eq!(shown.matches("cannot accept").count(), 1, "{shown}");
}
