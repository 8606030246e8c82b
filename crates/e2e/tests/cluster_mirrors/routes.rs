//! A route that may ask the source: what is inside comes from inside, the rest from the source.

use std::fs;

use e2e::RegistryProgram;
use e2e::cluster::{Cluster, OutsideRegistry};

use crate::stage::{Stage, fill};

const ROUTE: [&str; 2] = ["registryroute", "open"];

#[test]
#[ignore = "needs a cluster"]
fn a_route_that_may_ask_the_source_asks_it_for_what_is_not_inside() {
    let cluster = Cluster::connect();
    let Some(own) = cluster.own() else { return };
    let stage = Stage::set(&cluster, own);
    let source = OutsideRegistry::start_with_private_ca(RegistryProgram::Distribution, own);
    fill(&source, "team/open", &["1", "2"]);
    let trusted = source.ca().unwrap();
    let ca = fs::read_to_string(trusted).unwrap();
    let ca: Vec<String> = ca.lines().map(|line| format!("        {line}")).collect();
    let ca = ca.join("\n");
    let (host, tags) = (source.host(), "tags: [\"1\"]");
    let repository = format!("name: \"{host}/team/open\"\n      {tags}\n      ca: |\n{ca}");
    let _mirror = stage.mirror("open", "interval: 1h", &[repository]);
    stage.wait_for_public_images("open", 1);
    cluster.apply(&format!(
        "apiVersion: stvz.io/v1\nkind: RegistryRoute\nmetadata: {{name: open}}\nspec:\n  hosts: \
         [\"{host}\"]\n  registry: {{namespace: coral-system, name: reg}}\n  sourcePolicy: \
         AllowContactingSource\n"
    ));
    cluster.wait_for_ready("default", "registryroute", "open");
    // The node trusts the source as it would trust one of the internet.
    let trust = format!("SSL_CERT_FILE={}", trusted.display());
    let hosts = "--hosts-dir=/etc/containerd/certs.d";
    let fetch = |tag: &str| {
        let reference = format!("{host}/team/open:{tag}");
        let ctr = ["ctr", "-n", "tests", "content", "fetch", hosts, &reference];
        let command = [&["env", &trust][..], &ctr].concat();
        own.exec("node1", &command).succeeded()
    };
    let before = source.requests().len();
    let _ = fetch("1");
    assert_eq!(source.requests().len(), before, "it is inside");
    let _ = fetch("2");
    let requests = source.requests();
    let mut asked = requests[before..].iter();
    assert!(
        asked.any(|request| request.path.starts_with("/v2/team/open/manifests/2")),
        "{requests:?}"
    );
    let _ = cluster.kubectl(&[&["delete"], &ROUTE[..]].concat());
}
