//! Images that are not plain: how many of their manifests arrive, byte for byte.

use e2e::{FaultServer, Layout, http, peers, run, scratch, sha256};
use serde_json::{Value, json};

use super::tools::{Image, Pass, Tool};
use super::watched::watch;
use crate::server::Server;
use crate::table::{Better, Row};

const PLATFORMS: usize = 300;
const ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// An image at a source, and every manifest that belongs to it, by digest or tag.
struct Odd {
    image: Image,
    /// What to ask for, and the digest that is to come.
    parts: Vec<(String, String)>,
}

pub(super) fn measure() -> Vec<Row> {
    let sources = [FaultServer::registry(&[]), FaultServer::registry(&[])];
    let odd = load(&sources);
    let total: usize = odd.iter().map(|odd| odd.parts.len()).sum();
    let coral = arrived(Tool::Coral, &odd);
    let row = |tool: Tool| Row {
        work: format!(
            "nested index, attestation, referrer, cosign tag, zstd, Docker schema 2, artifact, \
             {PLATFORMS} platforms, one name on two hosts: of {total} manifests and tags, arrived \
             byte for byte"
        ),
        unit: "",
        better: Better::Higher,
        coral,
        peer: arrived(tool, &odd),
        peer_name: tool.name(),
    };
    [Tool::Skopeo, Tool::Regsync].map(row).into()
}

fn load(sources: &[FaultServer; 2]) -> Vec<Odd> {
    let platforms: Vec<String> = (0..PLATFORMS).map(|n| format!("linux/a{n}")).collect();
    let seeds = [
        json!({"path": "odd/index", "kind": "index", "attestation": true, "signature": true, "referrer": true}),
        json!({"path": "odd/nested", "kind": "nested", "seed": 2}),
        json!({"path": "odd/docker", "kind": "docker", "seed": 3}),
        json!({"path": "odd/list", "kind": "docker_list", "seed": 4}),
        json!({"path": "odd/artifact", "kind": "artifact", "seed": 5, "referrer": true}),
        json!({"path": "odd/many", "kind": "index", "seed": 6, "platforms": platforms, "layers": [10]}),
        json!({"path": "odd/same", "seed": 7}),
    ];
    let mut odd: Vec<Odd> = seeds
        .iter()
        .map(|seed| load_one(&sources[0], seed))
        .collect();
    odd.push(load_one(
        &sources[1],
        &json!({"path": "odd/same", "seed": 8}),
    ));
    odd.push(push_zstd(&sources[0]));
    odd
}

fn load_one(source: &FaultServer, seed: &Value) -> Odd {
    let mut seed = seed.clone();
    seed["tag"] = "1".into();
    let loaded = source.load(&seed);
    let digests = loaded["manifests"].as_array().into_iter().flatten();
    let digests = digests.map(|m| m["digest"].as_str().unwrap().to_owned());
    let tags = loaded["tags"].as_object().into_iter().flatten();
    let tags = tags.map(|(tag, digest)| (tag.clone(), digest.as_str().unwrap().to_owned()));
    Odd {
        image: image(source, seed["path"].as_str().unwrap()),
        parts: digests
            .map(|digest| (digest.clone(), digest))
            .chain(tags)
            .collect(),
    }
}

fn image(source: &FaultServer, path: &str) -> Image {
    Image {
        host: source.host().to_owned(),
        path: path.to_owned(),
        tag: "1".to_owned(),
    }
}

fn push_zstd(source: &FaultServer) -> Odd {
    let home = scratch();
    let layout = Layout::open(home.path().join("zstd"));
    let config = json!({"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": []}});
    let config = layout.add(
        "application/vnd.oci.image.config.v1+json",
        config.to_string().as_bytes(),
    );
    let layer = layout.add(ZSTD, b"(\xb5/\xfd, as far as anybody looks");
    let manifest =
        json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": [layer]});
    let manifest = layout.add(MANIFEST, manifest.to_string().as_bytes());
    layout.tag("1", &manifest);
    let to = format!("docker://{}/odd/zstd:1", source.host());
    let mut copy = peers::skopeo_copy(home.path(), &layout.reference("1"), &to);
    let _ = run(copy.arg("--preserve-digests")).succeeded();
    let digest = manifest["digest"].as_str().unwrap().to_owned();
    Odd {
        image: image(source, "odd/zstd"),
        parts: vec![(digest.clone(), digest.clone()), ("1".to_owned(), digest)],
    }
}

/// How many manifests and tags a tool brought to the destination. A tool that gives up on some
/// still counts for the rest.
fn arrived(tool: Tool, odd: &[Odd]) -> f64 {
    let home = scratch();
    let destination = Server::coral();
    let host = destination.host();
    let images: Vec<Image> = odd.iter().map(|odd| odd.image.clone()).collect();
    let pass = Pass {
        home: home.path(),
        destination: &host,
        images: &images,
    };
    watch(&mut tool.command(&pass));
    let is_there = |odd: &Odd, (asked, digest): &(String, String)| {
        let answer = http::get(&format!(
            "http://{host}/v2/{}/manifests/{asked}",
            tool.lands_at(&odd.image)
        ));
        answer.status == 200 && sha256(&answer.body) == *digest
    };
    let found = odd
        .iter()
        .map(|odd| odd.parts.iter().filter(|part| is_there(odd, part)).count());
    found.sum::<usize>() as f64
}
