//! Mirroring: Coral beside skopeo, cold and with nothing to do.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use e2e::{FaultServer, Layout, coral, peers, run, scratch};

use crate::server::Server;
use crate::table::{Better, Row, median};

const IMAGES: usize = 10;
const LAYERS: usize = 9;
const LAYER: usize = 465_000_000 / (IMAGES * LAYERS);
const ROUNDS: usize = 5;

/// Both tools' configuration for the same ten images.
struct Bench {
    home: tempfile::TempDir,
    source: Server,
}

/// Seconds of the first passes, and of those after them.
#[derive(Default)]
struct Passes {
    cold: Vec<f64>,
    again: Vec<f64>,
}

pub(crate) fn measure() -> Vec<Row> {
    let bench = Bench::new();
    let mut passes: [Passes; 3] = Default::default();
    // In turns, so that what else the machine does meets all.
    for _ in 0..ROUNDS {
        bench.pass(Server::distribution, Bench::skopeo, &mut passes[0]);
        bench.pass(Server::distribution, Bench::coral, &mut passes[1]);
        bench.pass(Server::coral, Bench::coral, &mut passes[2]);
    }
    let [skopeo, coral, own] = passes.map(|passes| (median(passes.cold), median(passes.again)));
    let asked = [bench.requests(Bench::coral), bench.requests(Bench::skopeo)];
    let row = |work: &str, unit, coral: f64, peer: f64| Row {
        work: work.to_owned(),
        unit,
        better: Better::Lower,
        coral,
        peer,
        peer_name: "skopeo sync",
    };
    vec![
        row(
            "mirror 10 images, 90 layers, 465 MB, cold",
            "s",
            coral.0,
            skopeo.0,
        ),
        row("same, into Coral's own registry", "s", own.0, skopeo.0),
        row(
            "same, blobs read at the source",
            "GETs",
            asked[0].blobs,
            asked[1].blobs,
        ),
        row("nothing changed", "s", coral.1, skopeo.1),
        row(
            "nothing changed, into Coral's own registry",
            "s",
            own.1,
            skopeo.1,
        ),
        row(
            "nothing changed, requests at the source",
            "",
            asked[0].again,
            asked[1].again,
        ),
    ]
}

/// Requests counted at the source.
struct Asked {
    blobs: f64,
    again: f64,
}

type Tool = fn(&Bench, source: &str, destination: &str) -> Command;

impl Bench {
    fn new() -> Self {
        let bench = Self {
            home: scratch(),
            source: Server::distribution(),
        };
        let layout = Layout::open(bench.home.path().join("images"));
        for number in 0..IMAGES {
            let layers: Vec<Vec<u8>> = (0..LAYERS).map(|_| random(LAYER)).collect();
            layout.tag("now", &layout.add_layered_image("amd64", &layers));
            let to = format!("docker://{}/bench/app{number}:1", bench.source.host());
            let mut copy = peers::skopeo_copy(bench.home.path(), &layout.reference("now"), &to);
            let _ = run(&mut copy).succeeded();
        }
        bench
    }

    fn pass(&self, destination: fn() -> Server, tool: Tool, passes: &mut Passes) {
        let destination = destination();
        let mut command = tool(self, &self.source.host(), &destination.host());
        let _ = run(&mut Command::new("sync"));
        passes.cold.push(seconds(&mut command));
        passes.again.push(seconds(&mut command));
    }

    /// The same with a counting proxy before the source, not timed.
    fn requests(&self, tool: Tool) -> Asked {
        let destination = Server::distribution();
        let proxy = FaultServer::proxy(&self.source.host());
        let mut command = tool(self, proxy.host(), &destination.host());
        let _ = run(&mut command).succeeded();
        let blobs = proxy
            .requests()
            .iter()
            .filter(|request| request.reads_blob())
            .count();
        proxy.forget();
        let _ = run(&mut command).succeeded();
        Asked {
            blobs: blobs as f64,
            again: proxy.requests().len() as f64,
        }
    }

    fn skopeo(&self, source: &str, destination: &str) -> Command {
        let images: Vec<String> = (0..IMAGES)
            .map(|n| format!("    bench/app{n}: [\"1\"]\n"))
            .collect();
        let yaml = format!(
            "\"{source}\":\n  tls-verify: false\n  images:\n{}",
            images.concat()
        );
        let file = self.file("skopeo.yaml", &yaml);
        let mut command = peers::skopeo(self.home.path());
        command.args(["sync", "--all", "--src", "yaml", "--dest", "docker"]);
        command.args(["--src-tls-verify=false", "--dest-tls-verify=false"]);
        command.arg(file).arg(format!("{destination}/mirrored"));
        command
    }

    fn coral(&self, source: &str, destination: &str) -> Command {
        let (host, port) = destination.split_once(':').unwrap();
        let list =
            (0..IMAGES).map(|n| format!("  - name: {source}/bench/app{n}\n    tags: [\"1\"]\n"));
        let yaml = format!(
            "apiVersion: stvz.io/v1\nkind: RegistryMirror\nmetadata:\n  name: bench\nspec:\n  \
             registry:\n    host: {host}\n    port: {port}\n  repositories:\n{}",
            list.collect::<String>()
        );
        let mut command = coral();
        command
            .args(["mirror", "run"])
            .arg(self.file("mirror.yaml", &yaml));
        command.args(["--plain-http", source, "--plain-http", destination]);
        command.env("HOME", self.home.path());
        command
    }

    fn file(&self, name: &str, text: &str) -> PathBuf {
        let path: &Path = self.home.path();
        fs::write(path.join(name), text).unwrap();
        path.join(name)
    }
}

fn random(size: usize) -> Vec<u8> {
    let mut bytes = vec![0; size];
    fs::File::open("/dev/urandom")
        .unwrap()
        .read_exact(&mut bytes)
        .unwrap();
    bytes
}

fn seconds(command: &mut Command) -> f64 {
    let began = Instant::now();
    let _ = run(command).succeeded();
    began.elapsed().as_secs_f64()
}
