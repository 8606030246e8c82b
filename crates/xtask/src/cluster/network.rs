//! The bridge, the cables of the nodes, and the routes between them.

use std::process::Command;

use anyhow::{Result, bail};

use super::processes::succeeds;
use super::settings::{Cluster, MOST_CLUSTERS};
use crate::command::output;

/// Makes the bridge, with the address on which everything outside the nodes listens.
pub(super) fn make_bridge(cluster: &Cluster) -> Result<()> {
    let bridge = cluster.bridge();
    if succeeds(&mut ip(&["link", "show", &bridge])) {
        bail!(
            "the link {bridge} exists already: another cluster is named {}",
            cluster.name
        );
    }
    // Without an address of its own the bridge takes one of its cables', and changes it when that
    // cable goes.
    run(&["link", "add", &bridge, "address", &mac(1), "type", "bridge"])?;
    run(&[
        "addr",
        "add",
        &format!("{}/24", cluster.host()),
        "dev",
        &bridge,
    ])?;
    run(&["link", "set", &bridge, "up"])?;
    // The host has no kube-proxy: the address of a Service must not leave by the default route.
    run(&["route", "add", "unreachable", &cluster.range()])
}

/// Removes the bridge and the routes; what is gone already is left out.
pub(super) fn remove_bridge(cluster: &Cluster) {
    for node in 1..=cluster.nodes {
        unplug(cluster, node);
    }
    succeeds(&mut ip(&["link", "del", &cluster.bridge()]));
    succeeds(&mut ip(&["route", "del", "unreachable", &cluster.range()]));
}

/// The links and routes of the cluster that are there.
pub(super) fn links_and_routes(cluster: &Cluster) -> Result<Vec<String>> {
    let links = output(&mut ip(&["-oneline", "link", "show"]))?;
    let routes = output(&mut ip(&["route", "show"]))?;
    let of_cluster = |line: &&str| {
        let names = (1..=cluster.nodes).map(|node| cluster.cable(node));
        names
            .chain([cluster.bridge()])
            .any(|name| line.contains(&format!(" {name}@")) || line.contains(&format!(" {name}:")))
    };
    let links = links
        .lines()
        .filter(of_cluster)
        .map(|line| format!("link {line}"));
    let range = cluster.range();
    let routes = routes.lines().filter(|line| line.contains(&range));
    Ok(links
        .chain(routes.map(|line| format!("route {line}")))
        .collect())
}

/// Connects a node to the bridge, and gives it its routes; `id` is its first process.
pub(super) fn plug(cluster: &Cluster, node: u8, id: u32) -> Result<()> {
    let (cable, host) = (cluster.cable(node), cluster.host());
    let (address, id) = (cluster.node_address(node), id.to_string());
    unplug(cluster, node);
    // Fixed, so that no neighbour keeps the one of the node's last life.
    let mac = mac(10 + node);
    run(&[
        "link", "add", &cable, "type", "veth", "peer", "name", "eth0", "address", &mac, "netns",
        &id,
    ])?;
    run(&["link", "set", &cable, "master", &cluster.bridge(), "up"])?;
    let inside = |arguments: &[&str]| {
        let mut enter = Command::new("nsenter");
        enter.args(["-t", &id, "-n", "ip"]).args(arguments);
        output(&mut enter).map(drop)
    };
    inside(&["addr", "add", &format!("{address}/24"), "dev", "eth0"])?;
    inside(&["link", "set", "eth0", "up"])?;
    inside(&["route", "add", "default", "via", &host])?;
    run(&["route", "replace", &cluster.pods(node), "via", &address])?;
    for other in (1..=cluster.nodes).filter(|other| *other != node) {
        let gateway = cluster.node_address(other);
        inside(&["route", "replace", &cluster.pods(other), "via", &gateway])?;
    }
    Ok(())
}

/// Takes the host's end of a node's cable away; the other end goes with it.
pub(super) fn unplug(cluster: &Cluster, node: u8) {
    succeeds(&mut ip(&["link", "del", &cluster.cable(node)]));
}

/// The first share of the addresses that no link of this machine has.
pub(super) fn free_index(at: impl Fn(u8) -> Result<Cluster>) -> Result<u8> {
    let taken = output(&mut ip(&["-oneline", "-4", "address", "show"]))?;
    for index in 0..MOST_CLUSTERS {
        if !taken.contains(&format!(" {}/", at(index)?.host())) {
            return Ok(index);
        }
    }
    bail!("{MOST_CLUSTERS} clusters are up: `cargo xtask cluster down` ends one")
}

fn mac(last: u8) -> String {
    format!("02:00:c6:12:00:{last:02x}")
}

fn run(arguments: &[&str]) -> Result<()> {
    output(&mut ip(arguments)).map(drop)
}

fn ip(arguments: &[&str]) -> Command {
    let mut ip = Command::new("ip");
    ip.args(arguments);
    ip
}
