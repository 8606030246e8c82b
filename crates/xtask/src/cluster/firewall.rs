//! The packet filter of each node, for its own packets and for those of its pods.
//!
//! While joined, the nodes reach every address of the cluster's range. That includes the bridge's
//! address, on which the outside of the tests listens. While cut off, they reach nodes, pods and
//! Services, and the API server's port. All other packets are dropped and counted, also those that
//! would leave this machine.

use std::fs;
use std::io::Write as _;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::node::first_process;
use super::processes::running;
use super::settings::{API_PORT, Cluster, MOST_NODES, write};
use crate::command::output;

/// TCP packets of at most this many bytes only acknowledge or close: 52 bytes are headers, and the
/// end of a TLS session or an HTTP/2 ping adds a few. A request is longer.
const SMALL: u32 = 92;

/// The key of the counters.
const KEY: &str = "ip saddr . ip daddr . meta l4proto . th dport";

/// Cuts the nodes off from the outside. The counters begin at zero.
pub(super) fn cut(cluster: &Cluster) -> Result<()> {
    write(&cluster.file("cut"), "")?;
    for node in 1..=cluster.nodes {
        write(&cluster.file(&kept_file(node)), "[]")?;
        rebuild(cluster, node)?;
    }
    Ok(())
}

/// Connects the nodes with the outside again. The counters stay.
pub(super) fn join(cluster: &Cluster) -> Result<()> {
    let mark = cluster.file("cut");
    if mark.exists() {
        fs::remove_file(&mark).with_context(|| format!("cannot remove {}", mark.display()))?;
    }
    for node in 1..=cluster.nodes {
        keep_counts(cluster, node)?;
        rebuild(cluster, node)?;
    }
    Ok(())
}

/// Loads the filter of a running node. Connections of before are judged by it too: the direction of
/// each packet's connection says who opened it.
pub(super) fn build(cluster: &Cluster, node: u8) -> Result<()> {
    let mut nft = in_node(cluster, node)?;
    let mut child = nft
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .spawn()
        .context("cannot start nft")?;
    if let Some(mut input) = child.stdin.take() {
        input.write_all(rules(cluster, is_cut(cluster)).as_bytes())?;
    }
    ensure!(
        child.wait()?.success(),
        "nft refuses the filter of node{node}"
    );
    Ok(())
}

pub(super) fn is_cut(cluster: &Cluster) -> bool {
    cluster.file("cut").exists()
}

/// Every destination that packets were dropped to since `cut`, as JSON: their number in all, and
/// for each node, source and destination. `asked` counts those that ask for something: connections
/// are opened or data is sent. The rest belongs to connections of before: a side that closes an
/// idle one repeats itself for a while.
pub(super) fn dropped(cluster: &Cluster) -> Result<Value> {
    let mut all = Vec::new();
    for node in 1..=cluster.nodes {
        all.extend(kept(cluster, node));
        all.extend(counted(cluster, node)?);
    }
    let sum = |key: &str| all.iter().filter_map(|d| d[key].as_u64()).sum::<u64>();
    Ok(json!({"packets": sum("packets"), "asked": sum("asked"), "dropped": all}))
}

/// Saves the counters of a node before its filter is replaced.
pub(super) fn keep_counts(cluster: &Cluster, node: u8) -> Result<()> {
    let mut all = kept(cluster, node);
    all.extend(counted(cluster, node)?);
    write(
        &cluster.file(&kept_file(node)),
        &Value::from(all).to_string(),
    )
}

fn rebuild(cluster: &Cluster, node: u8) -> Result<()> {
    if running(cluster, &format!("node{node}")).is_some() {
        build(cluster, node)?;
    }
    Ok(())
}

fn kept_file(node: u8) -> String {
    format!("node{node}.dropped.json")
}

fn kept(cluster: &Cluster, node: u8) -> Vec<Value> {
    let text = fs::read_to_string(cluster.file(&kept_file(node))).unwrap_or_default();
    serde_json::from_str(&text).unwrap_or_default()
}

fn counted(cluster: &Cluster, node: u8) -> Result<Vec<Value>> {
    if running(cluster, &format!("node{node}")).is_none() {
        return Ok(Vec::new());
    }
    let list = |set: &str| -> Result<Value> {
        let mut nft = in_node(cluster, node)?;
        let listed = output(nft.args(["-j", "list", "set", "inet", "wall", set]))?;
        serde_json::from_str(&listed).context("nft printed no JSON")
    };
    Ok(destinations(&list("dropped")?, &list("asked")?, node))
}

/// The elements of both sets, in nft's words, by destination.
fn destinations(dropped: &Value, asked: &Value, node: u8) -> Vec<Value> {
    let asked = elements(asked);
    let all = elements(dropped).into_iter().map(|(key, packets)| {
        let same = asked.iter().find(|(other, _)| *other == key);
        json!({
            "node": format!("node{node}"), "source": key[0], "address": key[1],
            "protocol": key[2], "port": key[3], "packets": packets,
            "asked": same.map_or(0, |(_, packets)| *packets),
        })
    });
    all.collect()
}

/// Keys and packets of a set's elements.
fn elements(listed: &Value) -> Vec<(&Value, u64)> {
    let objects = listed["nftables"].as_array().into_iter().flatten();
    let elements = objects.filter_map(|object| object["set"]["elem"].as_array());
    let read = elements.flatten().map(|element| {
        let element = &element["elem"];
        let packets = element["counter"]["packets"].as_u64().unwrap_or_default();
        (&element["val"]["concat"], packets)
    });
    read.collect()
}

fn in_node(cluster: &Cluster, node: u8) -> Result<Command> {
    let id = first_process(cluster, node)?.to_string();
    let mut command = Command::new("nsenter");
    command.args(["-t", &id, "-n", "nft"]);
    Ok(command)
}

/// After the rules of kube-proxy, which put the address of a pod or the API server in place of a
/// Service's.
fn rules(cluster: &Cluster, is_cut: bool) -> String {
    let inside = if is_cut {
        let (first, last) = (cluster.node_address(1), cluster.node_address(MOST_NODES));
        let pods: Vec<String> = (1..=MOST_NODES).map(|node| cluster.pods(node)).collect();
        format!(
            "{first}-{last}, {}, {}",
            pods.join(", "),
            cluster.services()
        )
    } else {
        cluster.range()
    };
    format!(
        "add table inet wall
delete table inet wall
table inet wall {{
  set inside {{ type ipv4_addr; flags interval; elements = {{ 127.0.0.0/8, {inside} }} }}
  set dropped {{
    type ipv4_addr . ipv4_addr . inet_proto . inet_service
    size 65535; flags dynamic; counter
  }}
  set asked {{
    type ipv4_addr . ipv4_addr . inet_proto . inet_service
    size 65535; flags dynamic; counter
  }}
  chain judge {{
    ct direction reply accept
    meta l4proto igmp accept
    ip daddr @inside accept
    ip daddr {host} tcp dport {API_PORT} accept
    ip6 daddr {{ ::1, fe80::/10, ff00::/8 }} accept
    tcp flags syn update @asked {{ {KEY} }}
    meta l4proto tcp meta length > {SMALL} update @asked {{ {KEY} }}
    meta l4proto udp update @asked {{ {KEY} }}
    meta l4proto != {{ tcp, udp }} update @asked {{ ip saddr . ip daddr . meta l4proto . 0 }}
    meta l4proto {{ tcp, udp }} update @dropped {{ {KEY} }}
    meta l4proto != {{ tcp, udp }} update @dropped {{ ip saddr . ip daddr . meta l4proto . 0 }}
    drop
  }}
  chain output {{ type filter hook output priority 10; jump judge; }}
  chain forward {{ type filter hook forward priority 10; jump judge; }}
}}
",
        host = cluster.host(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As nft lists a set.
    fn listed(port: u16, packets: u64) -> Value {
        json!({"nftables": [
            {"metainfo": {"version": "1.0.6"}},
            {"set": {"elem": [{"elem": {
                "val": {"concat": ["198.18.1.2", "198.18.0.1", "tcp", port]},
                "counter": {"packets": packets, "bytes": 60 * packets},
            }}]}},
        ]})
    }

    #[test]
    fn counted_packets_are_read_from_what_nft_prints() {
        let read = destinations(&listed(5000, 5), &listed(5000, 3), 1);
        assert_eq!(read.len(), 1);
        assert_eq!(read[0]["port"], 5000);
        assert_eq!(read[0]["packets"], 5);
        assert_eq!(read[0]["asked"], 3);
    }

    #[test]
    fn packets_that_ask_for_nothing_are_counted_as_dropped_only() {
        let read = destinations(&listed(5000, 5), &listed(80, 1), 1);
        assert_eq!(read[0]["asked"], 0);
        let empty = json!({"nftables": [{"set": {}}]});
        assert_eq!(destinations(&empty, &empty, 1).len(), 0);
    }
}
