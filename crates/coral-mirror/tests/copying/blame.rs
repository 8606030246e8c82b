//! A failure names the side that failed.

use coral_distribution::{Endpoint, Layout};
use coral_image::error_chain;

use super::*;

/// A layout with this image, as a source of a copy.
async fn layout_of(pair: &Pair, dir: &std::path::Path) -> CopySide {
    let mut request = pair.request("team/app:1", "here/app:1");
    let layout = Layout::new(dir);
    request.destination = CopySide::layout(layout.clone());
    Copier::default().copy(&request).await.unwrap();
    CopySide::layout(layout)
}

async fn fails(request: &CopyRequest) -> String {
    error_chain(&Copier::default().copy(request).await.unwrap_err())
}

/// Regression: the destination was blamed for a fault in the source's folder.
#[tokio::test]
async fn a_broken_layout_is_the_sources_fault() {
    let pair = Pair::start().await;
    let built = image(1);
    pair.source.load("team/app", &built);
    let dir = tempfile::tempdir().unwrap();
    let mut request = pair.request("team/app:1", "here/app:1");
    request.source = layout_of(&pair, dir.path()).await;
    let (layer, _) = built.blobs.iter().find(|(_, b)| b.len() == 60_000).unwrap();
    let file = dir.path().join("blobs/sha256").join(layer.hex());
    // The blob has the right length but the wrong content; it is too short; it is gone.
    for bytes in [Some(vec![7; 60_000]), Some(vec![7; 10]), None] {
        match &bytes {
            Some(bytes) => std::fs::write(&file, bytes).unwrap(),
            None => std::fs::remove_file(&file).unwrap(),
        }
        let said = fails(&request).await;
        assert!(said.starts_with("source: "), "{said}");
        let dir = dir.path().display().to_string();
        assert!(said.contains(&dir), "{said}");
    }
}

/// Regression: an interruption behind a redirect of the source was attributed to the destination.
#[tokio::test]
async fn a_server_behind_the_source_is_the_sources_fault() {
    let pair = Pair::start().await;
    let built = image(1);
    pair.source.load("team/app", &built);
    let behind = FaultRegistry::start().await;
    behind.load("team/app", &built);
    behind.fault(Fault::new(Effect::CutBody { after: 100 }).path("/blobs/"));
    let to = behind.url().to_owned();
    let blobs = Fault::new(Effect::Redirect { to }).method("GET");
    pair.source.fault(blobs.path("/blobs/"));
    let mut request = pair.request("team/app:1", "here/app:1");
    let hosts = [pair.source.host(), pair.destination.host(), behind.host()];
    let all = client(&hosts.each_ref().map(String::as_str));
    let from = ImageRef::parse(&format!("{}/team/app:1", pair.source.host())).unwrap();
    let endpoint = all.repository(from.repository(), Arc::new(Credentials::none()));
    request.source = CopySide::new(Endpoint::from(endpoint), from.repository());
    let said = fails(&request).await;
    assert!(said.starts_with("source: "), "{said}");
}

#[tokio::test]
async fn a_destination_that_refuses_bytes_is_the_destinations_fault() {
    let pair = Pair::start().await;
    pair.source.load("team/app", &image(1));
    let full = Effect::Status {
        status: 507,
        headers: vec![],
        body: "disk full".to_owned(),
    };
    pair.destination.fault(Fault::new(full).method("PUT"));
    let said = fails(&pair.request("team/app:1", "here/app:1")).await;
    assert!(said.starts_with("destination: "), "{said}");
}
