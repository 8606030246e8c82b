//! Mirroring into Coral's own registry: Coral beside skopeo and regsync.

mod fixture;
pub(crate) mod foreign;
mod odd;
mod tools;
mod watched;

use std::process::Command;

use e2e::{FaultServer, Request};

use crate::server::Server;
use crate::table::{Better, Row, median};
use fixture::Fixture;
use tools::{Pass, Tool};
use watched::{Watched, watch};

const ROUNDS: usize = 5;

pub(crate) fn measure() -> Vec<Row> {
    let fixture = Fixture::new();
    let mut figures =
        [Tool::Coral, Tool::Skopeo, Tool::Regsync].map(|tool| (tool, Figures::default()));
    // In turns, so that what else the machine does meets all.
    for _ in 0..ROUNDS {
        for (tool, figures) in &mut figures {
            figures.round(*tool, &fixture);
        }
    }
    let [(_, coral), peers @ ..] = figures;
    let counts = Counts::take(Tool::Coral, &fixture);
    let mut rows = vec![];
    for (peer, figures) in &peers {
        rows.extend(timed_rows(&coral, figures, *peer));
        rows.extend(counted_rows(&counts, &Counts::take(*peer, &fixture), *peer));
    }
    rows.extend(memory_rows(&fixture));
    rows.extend(odd::measure());
    rows
}

/// What one tool did, round by round.
#[derive(Default)]
struct Figures {
    cold: Vec<f64>,
    half: Vec<f64>,
    again: Vec<f64>,
    memory: Vec<f64>,
}

impl Figures {
    fn round(&mut self, tool: Tool, fixture: &Fixture) {
        let destination = Server::coral();
        let mut cold = fixture.pass(
            tool,
            fixture::NEW,
            &fixture.source.host(),
            &destination.host(),
        );
        settle();
        let first = succeeded(&mut cold);
        self.cold.push(first.seconds);
        self.memory.push(first.megabytes);
        self.again.push(succeeded(&mut cold).seconds);
        let destination = Server::coral();
        let pass = |which| fixture.pass(tool, which, &fixture.source.host(), &destination.host());
        succeeded(&mut pass(fixture::OLD));
        settle();
        self.half.push(succeeded(&mut pass(fixture::NEW)).seconds);
    }
}

/// What was written before does not slow down what is measured.
fn settle() {
    let _ = e2e::run(&mut Command::new("sync"));
}

fn succeeded(command: &mut Command) -> Watched {
    let watched = watch(command);
    assert!(watched.succeeded, "{}", watched.shown);
    watched
}

fn timed_rows(coral: &Figures, peer: &Figures, tool: Tool) -> Vec<Row> {
    let row = |work: &str, unit, figure: fn(&Figures) -> &Vec<f64>| Row {
        work: work.to_owned(),
        unit,
        better: Better::Lower,
        coral: median(figure(coral).clone()),
        peer: median(figure(peer).clone()),
        peer_name: tool.name(),
    };
    vec![
        row("mirror 10 images, 90 layers, 465 MB, cold", "s", |f| {
            &f.cold
        }),
        row("same, half of it already at the destination", "s", |f| {
            &f.half
        }),
        row("same, nothing changed", "s", |f| &f.again),
        row("same, cold, peak anonymous memory", "MB", |f| &f.memory),
    ]
}

/// Requests, counted by proxies on both sides; not timed.
struct Counts {
    blobs_read: f64,
    bytes_read: f64,
    per_new_blob: f64,
    again: f64,
}

impl Counts {
    fn take(tool: Tool, fixture: &Fixture) -> Self {
        let registry = Server::coral();
        let source = FaultServer::proxy(&fixture.source.host());
        let destination = FaultServer::proxy(&registry.host());
        let mut command = fixture.pass(tool, fixture::NEW, source.host(), destination.host());
        succeeded(&mut command);
        let read: Vec<Request> = source
            .requests()
            .into_iter()
            .filter(Request::reads_blob)
            .collect();
        let pushed = destination
            .requests()
            .into_iter()
            .filter(|r| r.path.contains("/blobs/"));
        let pushed = pushed.count();
        source.forget();
        destination.forget();
        succeeded(&mut command);
        Self {
            blobs_read: read.len() as f64,
            bytes_read: read.iter().map(|r| r.sent as f64).sum::<f64>() / fixture.bytes(),
            per_new_blob: pushed as f64 / fixture.blobs(),
            again: (source.requests().len() + destination.requests().len()) as f64,
        }
    }
}

fn counted_rows(coral: &Counts, peer: &Counts, tool: Tool) -> Vec<Row> {
    let row = |work: &str, unit, figure: fn(&Counts) -> f64| Row {
        work: work.to_owned(),
        unit,
        better: Better::Lower,
        coral: figure(coral),
        peer: figure(peer),
        peer_name: tool.name(),
    };
    vec![
        row("cold, blobs read at the source", "GETs", |c| c.blobs_read),
        row(
            "cold, bytes read, each byte of the images once",
            "×",
            |c| c.bytes_read,
        ),
        row("cold, requests per new blob at the destination", "", |c| {
            c.per_new_blob
        }),
        row(
            "nothing changed, requests at both sides, 10 images",
            "",
            |c| c.again,
        ),
    ]
}

/// One image with a layer of a gigabyte: memory does not grow with it.
fn memory_rows(fixture: &Fixture) -> Vec<Row> {
    let peak = |tool: Tool| {
        let destination = Server::coral();
        let mut pass = fixture.pass(
            tool,
            fixture::LARGE,
            &fixture.source.host(),
            &destination.host(),
        );
        succeeded(&mut pass).megabytes
    };
    let coral = peak(Tool::Coral);
    let row = |tool: Tool| Row {
        work: "mirror a layer of 1 GB, peak anonymous memory".to_owned(),
        unit: "MB",
        better: Better::Lower,
        coral,
        peer: peak(tool),
        peer_name: tool.name(),
    };
    [Tool::Skopeo, Tool::Regsync].map(row).into()
}

impl Fixture {
    fn pass(&self, tool: Tool, which: fixture::Which, source: &str, destination: &str) -> Command {
        let images = self.images(which, source);
        tool.command(&Pass {
            home: self.home.path(),
            destination,
            images: &images,
        })
    }
}
