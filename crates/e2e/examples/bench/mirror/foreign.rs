//! Mirroring from distribution into distribution, which does not say where it has a blob: Coral
//! beside skopeo.

use e2e::{FaultServer, Request};

use super::fixture::{Fixture, NEW, OLD};
use super::tools::{Image, Pass, Tool};
use super::{ROUNDS, settle, succeeded};
use crate::server::Server;
use crate::table::{Better, Row, median};

const PEER: Tool = Tool::Skopeo;

pub(crate) fn measure() -> Vec<Row> {
    let fixture = Fixture::new();
    let mut figures = [Tool::Coral, PEER].map(|tool| (tool, Figures::default()));
    // In turns, so that what else the machine does meets both.
    for _ in 0..ROUNDS {
        for (tool, figures) in &mut figures {
            figures.round(*tool, &fixture);
        }
    }
    let [(_, coral), (_, peer)] = figures;
    let row = |work: &str, unit, coral, peer| Row {
        work: work.to_owned(),
        unit,
        better: Better::Lower,
        coral,
        peer,
        peer_name: PEER.name(),
    };
    vec![
        row(
            "mirror 10 images, 90 layers, 465 MB, from distribution into distribution, cold",
            "s",
            median(coral.cold),
            median(peer.cold),
        ),
        row(
            "same, half of it in other repositories of the destination",
            "s",
            median(coral.half),
            median(peer.half),
        ),
        row(
            "same, bytes read at the source",
            "MB",
            bytes_read(Tool::Coral, &fixture),
            bytes_read(PEER, &fixture),
        ),
    ]
}

#[derive(Default)]
struct Figures {
    cold: Vec<f64>,
    half: Vec<f64>,
}

impl Figures {
    fn round(&mut self, tool: Tool, fixture: &Fixture) {
        let source = fixture.source.host();
        let destination = Server::distribution();
        let mut pass = fixture.pass(tool, NEW, &source, &destination.host());
        settle();
        self.cold.push(succeeded(&mut pass).seconds);
        let destination = Server::distribution();
        succeeded(&mut fixture.pass(tool, OLD, &source, &destination.host()));
        settle();
        let mut pass = half(tool, fixture, &source, &destination.host());
        self.half.push(succeeded(&mut pass).seconds);
    }
}

/// The second pass of a mirror that had only the old images before. skopeo keeps a list of what it
/// pushed where, and need not be told of them.
fn half(tool: Tool, fixture: &Fixture, source: &str, destination: &str) -> std::process::Command {
    let mut images: Vec<Image> = fixture.images(NEW, source);
    if tool == Tool::Coral {
        images.extend(fixture.images(OLD, source));
    }
    tool.command(&Pass {
        home: fixture.home.path(),
        destination,
        images: &images,
    })
}

/// Megabytes of blobs, counted by a proxy; not timed.
fn bytes_read(tool: Tool, fixture: &Fixture) -> f64 {
    let destination = Server::distribution();
    let source = FaultServer::proxy(&fixture.source.host());
    succeeded(&mut fixture.pass(tool, OLD, source.host(), &destination.host()));
    source.forget();
    succeeded(&mut half(tool, fixture, source.host(), &destination.host()));
    let read = source.requests().into_iter().filter(Request::reads_blob);
    read.map(|request| request.sent as f64).sum::<f64>() / 1e6
}
