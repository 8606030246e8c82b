//! What is seen in the pictures.

use std::fs;
use std::path::PathBuf;

use e2e::{FaultServer, Up, coral, scratch};
use serde_json::{Value, json};
use tempfile::TempDir;

const HOSTS: &str = "docker.io,quay.io,registry.k8s.io,ghcr.io";

const BASE: &str = "apiVersion: stvz.io/v1
kind: RegistryMirror
metadata: {name: base-images}
spec:
  registry: {name: local}
  interval: 6h
  repositories:
    - {name: debian, tags: [bookworm-slim, trixie-slim]}
    - {name: busybox, tags: [stable]}
    - {name: registry.k8s.io/pause, tags: [\"3.10\"]}
";

const WEB: &str = "apiVersion: stvz.io/v1
kind: RegistryMirror
metadata: {name: web}
spec:
  registry: {name: local}
  interval: 1h
  retry: {limit: 1, maxBackoff: 10m}
  repositories:
    - name: nginx
      select: {semver: \">=1.27\", latest: 3}
    - {name: redis, tags: [7-alpine]}
    - {name: ghcr.io/example/shop, tags: [\"2.4\", \"2.5\"]}
";

const MONITORING: &str = "apiVersion: stvz.io/v1
kind: RegistryMirror
metadata: {name: monitoring, namespace: observability}
spec:
  registry: {name: local}
  interval: 30m
  repositories:
    - {name: quay.io/prometheus/prometheus, tags: [v3.1.0]}
    - {name: quay.io/prometheus/node-exporter, tags: [v1.8.2]}
";

/// Registries outside, YAML, and a folder for the data.
pub(crate) struct Scene {
    sources: FaultServer,
    home: TempDir,
}

impl Scene {
    pub(crate) fn new() -> Self {
        let sources = FaultServer::registry(&[]);
        let images = [
            ("library/debian", "bookworm-slim", 3_000_000),
            ("library/debian", "trixie-slim", 3_400_000),
            ("library/busybox", "stable", 900_000),
            ("pause", "3.10", 300_000),
            ("library/nginx", "1.27.4", 4_100_000),
            ("library/nginx", "1.27.5", 4_200_000),
            ("library/nginx", "1.28.0", 4_300_000),
            ("library/redis", "7-alpine", 2_200_000),
            ("example/shop", "2.5", 5_000_000),
            ("prometheus/prometheus", "v3.1.0", 6_200_000),
            ("prometheus/node-exporter", "v1.8.2", 1_400_000),
        ];
        for ((path, tag, size), seed) in images.into_iter().zip(1..) {
            sources.load(&image(path, tag, size, seed));
        }
        let drip = json!({"drip": {"chunk": 16_384, "every_ms": 20}});
        sources.fault(&json!({"on": {"method": "GET", "path": "/blobs/"}, "effect": drip}));
        let home = scratch();
        let yaml = home.path().join("mirrors");
        fs::create_dir(&yaml).unwrap();
        for (name, text) in [("base", BASE), ("web", WEB), ("monitoring", MONITORING)] {
            fs::write(yaml.join(format!("{name}.yaml")), text).unwrap();
        }
        Self { sources, home }
    }

    /// Where the files lie.
    pub(crate) fn folder(&self) -> PathBuf {
        self.home.path().to_owned()
    }

    /// What `coral up` needs to find the registries.
    pub(crate) fn environment(&self) -> [(&'static str, String); 4] {
        let proxy = format!("http://{}", self.sources.host());
        [
            ("CORAL_PLAIN_HTTP", HOSTS.to_owned()),
            ("HTTP_PROXY", proxy.clone()),
            ("http_proxy", proxy),
            ("NO_PROXY", "127.0.0.1".to_owned()),
        ]
    }

    /// `coral up` without a terminal, where the one in the terminal left off.
    pub(crate) fn up(&self) -> Up {
        let mut command = coral();
        command
            .args(["up", "mirrors"])
            .env("HOME", self.home.path());
        command
            .current_dir(self.home.path())
            .envs(self.environment());
        Up::start_command(&mut command)
    }
}

fn image(path: &str, tag: &str, size: u64, seed: u64) -> Value {
    let layers = [size * 7 / 10, size * 2 / 10, size / 10];
    json!({"path": path, "tag": tag, "kind": "index", "layers": layers, "seed": seed,
        "created": format!("2026-{:02}-{:02}T08:00:00Z", 10 - seed % 9, seed + 10)})
}
