//! README's section "In a cluster" and the guide's page of that name, run as they are written: every
//! command, every object, and every output that the page shows.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use e2e::cluster::{Cluster, Reader, page, pose};

#[test]
#[ignore = "needs a cluster"]
fn the_section_of_the_readme_works_as_it_is_written() {
    let cluster = Cluster::connect();
    let Some(own) = cluster.own() else { return };
    let outside = pose(&cluster, own);
    let readme = page("README.md");
    let (_, section) = readme.split_once("\n## In a cluster\n").unwrap();
    let (section, _) = section.split_once("\n## ").unwrap();
    Reader::new(&cluster, own, &outside).follow(section);
}

#[test]
#[ignore = "needs a cluster"]
fn the_page_of_the_guide_works_as_it_is_written() {
    let cluster = Cluster::connect();
    let Some(own) = cluster.own() else { return };
    let outside = pose(&cluster, own);
    let namespace = ["create", "namespace", "team-a"];
    let _ = cluster.kubectl(&namespace).succeeded();
    let page = page("docs/src/guide/cluster.md");
    let mut reader = Reader::new(&cluster, own, &outside);
    reader.follow(&page);
    assert!(reader.compared >= 6, "only {} outputs", reader.compared);
}
