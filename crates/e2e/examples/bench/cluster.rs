//! What `cargo xtask bench cluster` measures: Coral installed on a real cluster of two nodes.

mod install;
mod memory;
mod placing;

use std::path::Path;

use e2e::cluster::Cluster;

use crate::{machine, table};

/// One measured thing: the middle of its runs, and the worst of them.
pub(crate) struct Figure {
    pub(crate) work: String,
    pub(crate) unit: &'static str,
    pub(crate) runs: Vec<f64>,
}

impl Figure {
    /// A line of the table.
    pub(crate) fn line(&self) -> String {
        let worst = self.runs.iter().copied().fold(0.0, f64::max);
        format!(
            "| {} | {} | {} {unit} | {} {unit} |",
            self.work,
            self.runs.len(),
            table::shown(table::median(self.runs.clone())),
            table::shown(worst),
            unit = self.unit,
        )
    }
}

/// Measures everything, and writes the section of the page if there is one.
pub(crate) fn measure(page: Option<&Path>) {
    let cluster = Cluster::connect();
    let machine = machine::hardware();
    println!("{machine}");
    let mut figures = Vec::new();
    for part in [install::measure, placing::measure, memory::measure] {
        for figure in part(&cluster) {
            println!("{}", figure.line());
            figures.push(figure);
        }
    }
    if let Some(page) = page {
        let section = section(&machine, &versions(&cluster), &figures);
        table::write(page, table::Part::Cluster, &section);
    }
}

/// The versions of what the cluster is made of, as its nodes tell them.
fn versions(cluster: &Cluster) -> String {
    let nodes = cluster.get(&["nodes"]).unwrap();
    let node = &nodes["items"][0]["status"]["nodeInfo"];
    let text = |key: &str| node[key].as_str().unwrap_or("unknown").to_owned();
    format!(
        "Kubernetes {}, {}, {} nodes on the same machine",
        text("kubeletVersion"),
        text("containerRuntimeVersion").replace("://", " "),
        cluster.nodes().len()
    )
}

fn section(machine: &str, versions: &str, figures: &[Figure]) -> String {
    let lines: Vec<String> = figures.iter().map(Figure::line).collect();
    format!(
        "{}\n\n<!-- Made by `cargo xtask bench cluster`. -->\n\n{machine}\n{versions}; Coral as a \
         release build.\n\n\
         | work | runs | median | worst |\n|---|---|---|---|\n{}\n\n\
         The installation is timed from the start of `kubectl apply -k deploy/` until the \
         controller, the webhook and both agents are ready; Coral's image is on the nodes already. \
         An Image is timed from the start of `kubectl apply` until the last of both nodes has the \
         label; its layers are in the managed Registry, and the time that containerd itself reports \
         for the slower of both pulls is subtracted. The registry with a limit of 64 MiB takes \
         four pushes of 256 MB at once (268,435,456 random bytes each), then serves four clients \
         that read all four, twice. Its working set is the largest that the kubelet reported, and \
         counts cached pages of files that were used lately; the kernel takes those back before it \
         kills.\n",
        table::Part::Cluster.heading(),
        lines.join("\n")
    )
}
