//! What is mirrored: images in distribution, made of bytes that do not compress.

use std::fs::File;
use std::io::Read;

use e2e::{Layout, peers, run, scratch};
use tempfile::TempDir;

use super::tools::Image;
use crate::server::Server;

const IMAGES: usize = 10;
const LAYERS: usize = 9;
const LAYER: usize = 465_000_000 / (IMAGES * LAYERS);
const LARGE_LAYER: usize = 1_000_000_000;

/// Which of the images.
#[derive(Clone, Copy)]
pub(super) struct Which(&'static str, usize);

/// Ten images of nine layers.
pub(super) const NEW: Which = Which("new", IMAGES);
/// Ten images that share half of their layers with the others.
pub(super) const OLD: Which = Which("old", IMAGES);
/// One image of one large layer.
pub(super) const LARGE: Which = Which("large", 1);

/// A source that holds the images.
pub(super) struct Fixture {
    pub(super) home: TempDir,
    pub(super) source: Server,
}

impl Fixture {
    pub(super) fn new() -> Self {
        let fixture = Self {
            home: scratch(),
            source: Server::distribution(),
        };
        for number in 0..IMAGES {
            let layers: Vec<Vec<u8>> = (0..LAYERS).map(|_| random(LAYER)).collect();
            fixture.push(OLD, number, &layers[..LAYERS / 2 + number % 2]);
            fixture.push(NEW, number, &layers);
        }
        fixture.push(LARGE, 0, &[random(LARGE_LAYER)]);
        fixture
    }

    fn push(&self, which: Which, number: usize, layers: &[Vec<u8>]) {
        let layout = Layout::open(self.home.path().join("image"));
        layout.tag("now", &layout.add_layered_image("amd64", layers));
        let to = format!(
            "docker://{}/bench/{}{number}:1",
            self.source.host(),
            which.0
        );
        let mut copy = peers::skopeo_copy(self.home.path(), &layout.reference("now"), &to);
        let _ = run(&mut copy).succeeded();
        std::fs::remove_dir_all(layout.folder()).unwrap();
    }

    /// The images as `host` has them: the source itself, or a proxy before it.
    #[expect(clippy::unused_self, reason = "there are none without a stand")]
    pub(super) fn images(&self, which: Which, host: &str) -> Vec<Image> {
        let image = |number| Image {
            host: host.to_owned(),
            path: format!("bench/{}{number}", which.0),
            tag: "1".to_owned(),
        };
        (0..which.1).map(image).collect()
    }

    /// Bytes of the layers of the new images.
    #[expect(clippy::unused_self, reason = "there are none without a stand")]
    pub(super) fn bytes(&self) -> f64 {
        (IMAGES * LAYERS * LAYER) as f64
    }

    /// Layers and configurations of the new images.
    #[expect(clippy::unused_self, reason = "there are none without a stand")]
    pub(super) fn blobs(&self) -> f64 {
        (IMAGES * (LAYERS + 1)) as f64
    }
}

fn random(size: usize) -> Vec<u8> {
    let mut bytes = vec![0; size];
    File::open("/dev/urandom")
        .unwrap()
        .read_exact(&mut bytes)
        .unwrap();
    bytes
}
