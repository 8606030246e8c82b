//! System calls that fail: each sync, rename, new folder and truncation of a push in turn ends
//! with an error of the disk. The answer says so, nothing is acknowledged that is not there, and
//! the next try works.

#[path = "registry/push.rs"]
mod push;
#[path = "registry/server.rs"]
mod server;
#[path = "registry/wire.rs"]
mod wire;

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use e2e::{Process, coral, report, scratch, until};
use push::{Push, Pushed};
use server::{Server, arguments};
use wire::Wire;

/// So many calls of one kind a thread makes for a push at most.
const MOST: u32 = 60;
const SOON: Duration = Duration::from_mins(2);

/// Calls that only files and folders are given to; the answers do not pass through them.
const CALLS: [(&str, &str); 5] = [
    ("fsync,fdatasync", "EIO"),
    ("rename,renameat,renameat2", "EIO"),
    ("mkdir,mkdirat", "ENOSPC"),
    ("ftruncate", "EIO"),
    SWEPT_LATER,
];

/// What cannot be deleted goes when the store is opened the next time: no reason to refuse a push.
const SWEPT_LATER: (&str, &str) = ("unlink,unlinkat,rmdir", "EIO");

/// `strace` with one call of a kind failing on each thread, counted from where it begins.
fn strace(log: &Path, calls: &str, error: &str, number: u32) -> Command {
    let mut command = Command::new("strace");
    command.args(["-f", "-e", &format!("trace={calls}")]);
    command.args(["-e", &format!("inject={calls}:error={error}:when={number}")]);
    command.arg("-o").arg(log);
    command
}

fn failed_calls(log: &Path) -> usize {
    let log = fs::read_to_string(log).expect("strace wrote its log");
    log.matches("(INJECTED)").count()
}

/// Pushes until it works; returns how often it was refused. A call fails once on each thread of the
/// registry, and a busy machine has it use many, which come and go: only the time is bounded.
fn push_until_it_works(push: &Push, wire: &mut Wire, place: &str) -> usize {
    let begun = Instant::now();
    let mut refused = 0;
    loop {
        match push.run(wire) {
            Pushed::Whole => return refused,
            Pushed::Refused { request, reply } => {
                let said = String::from_utf8_lossy(&reply.body).into_owned();
                let clear = matches!(reply.status, 500 | 507) && said.contains("\"errors\"");
                assert!(clear, "{place}: {request} is {} {said}", reply.status);
                push.is_whole_or_absent(wire);
            }
        }
        refused += 1;
        assert!(
            begun.elapsed() < SOON,
            "{place}: refused {refused} times and never taken"
        );
    }
}

/// Pushes while one call fails on each thread; returns how many calls failed, and how many
/// requests were refused for it.
fn push_with_a_failure(
    registry: &Server,
    push: &Push,
    (calls, error): (&str, &str),
    number: u32,
    log: &Path,
) -> (usize, usize) {
    let mut command = strace(log, calls, error, number);
    let pid = registry.process.pid();
    let mut strace = Process::start(command.args(["-p", &pid.to_string()]));
    strace.wait_for_line("attached", SOON);
    let mut wire = Wire::connect(&registry.address).expect("it listens");
    let refused = push_until_it_works(push, &mut wire, &format!("call {number} of {calls}"));
    push.is_whole(&mut wire);
    strace.signal("INT");
    strace.wait(SOON);
    (failed_calls(log), refused)
}

#[test]
#[ignore = "needs the release binary and strace; run by cargo xtask test"]
fn each_call_of_a_push_that_fails_is_answered_with_an_error_and_loses_nothing() {
    let folder = scratch();
    let (storage, log) = (folder.path().join("storage"), folder.path().join("calls"));
    let registry = Server::start(&storage);
    let mut pushes = Vec::new();
    for kind in CALLS {
        let (mut failures, mut refusals) = (0, 0);
        for number in 1..MOST {
            let push = Push::new(pushes.len() as u64, 3_000);
            let (failed, refused) = push_with_a_failure(&registry, &push, kind, number, &log);
            pushes.push(push);
            failures += failed;
            refusals += refused;
            assert!(
                failed == 0 || refused > 0 || kind == SWEPT_LATER,
                "call {number} of {} failed without a word",
                kind.0
            );
            if failed == 0 {
                break;
            }
        }
        let (calls, error) = kind;
        report!("{error} from {calls}: {failures} calls failed, {refusals} requests refused");
        assert!(failures > 0, "{calls} never failed");
    }
    drop(registry);
    let registry = Server::start(&storage);
    let mut wire = Wire::connect(&registry.address).expect("it listens");
    for push in &pushes {
        push.is_whole(&mut wire);
    }
    report!("after failing calls: {} images whole, 0 lost", pushes.len());
}

#[test]
#[ignore = "needs the release binary and strace; run by cargo xtask test"]
fn a_store_that_cannot_be_opened_is_named_and_opens_the_next_time() {
    let folder = scratch();
    let (storage, log) = (folder.path().join("storage"), folder.path().join("calls"));
    let mut refused = 0;
    for (calls, error) in CALLS {
        for number in 1..=3 {
            let mut command = strace(&log, calls, error, number);
            command.arg(coral().get_program()).args(arguments(&storage));
            let mut registry = Process::start(&mut command);
            until("the registry listens, or has ended", SOON, || {
                let listens = registry.stderr().contains("registry listening on");
                (listens || !registry.is_running()).then_some(())
            });
            if registry.is_running() {
                continue;
            }
            assert_eq!(registry.wait(SOON), 1, "{}", registry.shown());
            let said = registry.stderr();
            let named = said.contains(&*folder.path().to_string_lossy());
            assert!(said.starts_with("error: ") && named, "{said}");
            assert!(!said.contains("panicked"), "{said}");
            refused += 1;
        }
    }
    drop(Server::start(&storage));
    report!("opening a store: refused with a clear message {refused} times, opened the next time");
    assert!(refused >= 5, "{refused}");
}
