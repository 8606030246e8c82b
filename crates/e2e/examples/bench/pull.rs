//! Pulling through: sixteen clients at once want a blob that the cache does not have yet. Coral
//! beside distribution, in front of a source with a line of limited speed.

use std::sync::Barrier;
use std::thread;
use std::time::Instant;

use e2e::FaultServer;
use serde_json::json;

use crate::server::Server;
use crate::table::{Better, Row, median};
use crate::wire::Wire;

const CLIENTS: usize = 16;
const SIZE: u64 = 100_000_000;
/// Bytes a second, for all answers of the source together.
const LINE: u64 = 200_000_000;
/// Bytes after which the source cuts every answer, in a round of its own.
const CUT: u64 = 40_000_000;
const ROUNDS: usize = 5;

/// What one cache did, round by round.
#[derive(Default)]
struct Figures {
    copies: Vec<f64>,
    /// Seconds until the last client is done.
    all: Vec<f64>,
    /// Milliseconds until the last client has its first byte.
    first: Vec<f64>,
    /// Clients that got the whole blob although every answer of the source was cut.
    survivors: Vec<f64>,
}

#[derive(Clone, Copy)]
enum Cache {
    Coral,
    Distribution,
}

pub(crate) fn measure() -> Vec<Row> {
    let (mut coral, mut peer) = (Figures::default(), Figures::default());
    // In turns, so that what else the machine does meets both.
    for _ in 0..ROUNDS {
        coral.round(Cache::Coral);
        peer.round(Cache::Distribution);
    }
    let row = |work: String, unit, better, figure: fn(&Figures) -> &Vec<f64>| Row {
        work,
        unit,
        better,
        coral: median(figure(&coral).clone()),
        peer: median(figure(&peer).clone()),
        peer_name: "distribution",
    };
    vec![
        row(
            format!(
                "{CLIENTS} clients at once of a 100 MB blob behind a cold pull-through cache, source \
                 at 200 MB/s, all done"
            ),
            "s",
            Better::Lower,
            |f| &f.all,
        ),
        row(
            "same, slowest first byte".to_owned(),
            "ms",
            Better::Lower,
            |f| &f.first,
        ),
        row(
            "same, copies read at the source".to_owned(),
            "×",
            Better::Lower,
            |f| &f.copies,
        ),
        row(
            format!(
                "same, the source ends each answer after 40 MB: of {CLIENTS} clients, those with \
                 the whole blob"
            ),
            "",
            Better::Higher,
            |f| &f.survivors,
        ),
    ]
}

impl Figures {
    fn round(&mut self, cache: Cache) {
        let pace = json!({ "pace": { "bytes_per_second": LINE } });
        let (clients, sent) = pull(cache, &pace);
        assert!(clients.iter().all(|client| client.came == SIZE));
        let slowest = |time: fn(&Client) -> f64| clients.iter().map(time).fold(0.0, f64::max);
        let (all, first) = (
            slowest(|client| client.last),
            slowest(|client| client.first),
        );
        let copies = sent as f64 / SIZE as f64;
        println!(
            "{copies:.2} copies, {all:.3} s, first byte {:.1} ms",
            first * 1e3
        );
        self.copies.push(copies);
        self.all.push(all);
        self.first.push(first * 1e3);
        let (clients, _) = pull(cache, &json!({ "cut_body": { "after": CUT } }));
        let survivors = clients.iter().filter(|client| client.came == SIZE).count();
        self.survivors.push(survivors as f64);
    }
}

/// What one client got, and when, in seconds after all began.
struct Client {
    first: f64,
    last: f64,
    came: u64,
}

/// A fresh cache and a fresh source that answers reads of blobs with this effect: what the clients
/// got, and how many bytes of the blob were read at the source.
fn pull(cache: Cache, effect: &serde_json::Value) -> (Vec<Client>, u64) {
    let source = FaultServer::registry(&[]);
    let image = json!({ "path": "bench/app", "tag": "1", "layers": [SIZE] });
    let made = source.load(&image);
    let mut blobs = made["blobs"].as_array().unwrap().iter();
    let layer = blobs.find(|blob| blob["size"] == SIZE).unwrap();
    let layer = layer["digest"].as_str().unwrap();
    source.fault(&json!({ "on": { "method": "GET", "path": layer }, "effect": effect }));
    let (server, path) = match cache {
        Cache::Coral => {
            let path = format!("{}/bench/app", source.folder_name());
            (Server::coral_in_front_of(source.host()), path)
        }
        Cache::Distribution => {
            let server = Server::distribution_in_front_of(source.host());
            (server, "bench/app".to_owned())
        }
    };
    // As every client does before it asks for a layer; the blob stays cold.
    let accept = [("Accept", "application/vnd.oci.image.manifest.v1+json")];
    let manifest = format!("/v2/{path}/manifests/1");
    let answer = connect(&server).call("GET", &manifest, &accept, b"");
    assert_eq!(answer.unwrap().status, 200);
    let clients = all_at_once(&server, &format!("/v2/{path}/blobs/{layer}"));
    let requests = source.requests();
    let reads = requests.iter().filter(|it| it.path.contains(layer));
    (clients, reads.map(|read| read.sent).sum())
}

fn connect(server: &Server) -> Wire {
    Wire::connect(&server.host()).unwrap()
}

fn all_at_once(server: &Server, target: &str) -> Vec<Client> {
    let ready = Barrier::new(CLIENTS);
    thread::scope(|scope| {
        let clients = (0..CLIENTS).map(|_| {
            scope.spawn(|| {
                let mut wire = connect(server);
                ready.wait();
                read(&mut wire, target)
            })
        });
        let clients: Vec<_> = clients.collect();
        let ended = clients.into_iter().map(|client| client.join().unwrap());
        ended.collect()
    })
}

fn read(wire: &mut Wire, target: &str) -> Client {
    let began = Instant::now();
    let mut client = Client {
        first: f64::INFINITY,
        last: f64::INFINITY,
        came: 0,
    };
    let status = wire.open(target, &[]).map_or(0, |head| head.status);
    if status != 200 {
        return client;
    }
    let mut piece = vec![0; 256 << 10];
    let mut next = 1;
    while client.came < SIZE {
        let left = usize::try_from(SIZE - client.came).unwrap_or(next);
        // A connection that is reset has ended, too.
        let read = wire.read(&mut piece[..next.min(left)]).unwrap_or(0);
        if read == 0 {
            return client;
        }
        if client.came == 0 {
            client.first = began.elapsed().as_secs_f64();
            next = piece.len();
        }
        client.came += read as u64;
    }
    client.last = began.elapsed().as_secs_f64();
    client
}
