//! Rows of the result, and the page they are written to.

use std::fs;
use std::path::Path;

/// Which way is better.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Better {
    Higher,
    Lower,
}

/// One measured thing: Coral, and one peer beside it.
pub(crate) struct Row {
    pub(crate) work: String,
    pub(crate) unit: &'static str,
    pub(crate) better: Better,
    pub(crate) coral: f64,
    pub(crate) peer: f64,
    pub(crate) peer_name: &'static str,
}

impl Row {
    /// How much better Coral is: above one is better, below is worse.
    fn ratio(&self) -> f64 {
        match self.better {
            Better::Higher => self.coral / self.peer,
            Better::Lower => self.peer / self.coral,
        }
    }

    /// A line of the table.
    pub(crate) fn line(&self) -> String {
        format!(
            "| {} | {} | {} {} | {} {} | {} |",
            self.work,
            self.peer_name,
            shown(self.coral),
            self.unit,
            shown(self.peer),
            self.unit,
            if self.peer == 0.0 {
                "–".to_owned()
            } else {
                format!("{:.2}", self.ratio())
            },
        )
    }
}

/// Three figures that matter, whatever the size.
pub(crate) fn shown(value: f64) -> String {
    match value.abs() {
        0.0 => "0".to_owned(),
        v if v < 1.0 => format!("{value:.3}"),
        v if v < 100.0 => format!("{value:.2}"),
        _ => format!("{value:.0}"),
    }
}

/// The middle of some measurements.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// The parts of the page, each written by a run of its own.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    /// Registry and mirror on one machine, beside their peers.
    Machine,
    /// Coral on a cluster.
    Cluster,
    /// Builds on a cluster.
    Build,
}

impl Part {
    /// The line that the part begins with.
    pub(crate) fn heading(self) -> &'static str {
        match self {
            Self::Machine => "# Benchmarks",
            Self::Cluster => "## In a cluster",
            Self::Build => "## Builds",
        }
    }
}

/// Writes one part of the page, and leaves the others as they are.
pub(crate) fn write(page: &Path, part: Part, text: &str) {
    let before = fs::read_to_string(page).unwrap_or_default();
    let build = before.find(Part::Build.heading()).unwrap_or(before.len());
    let cluster = before.find(Part::Cluster.heading()).unwrap_or(build);
    let mut parts = [
        &before[..cluster],
        &before[cluster..build],
        &before[build..],
    ];
    parts[part as usize] = text;
    let parts = parts.map(str::trim);
    fs::write(page, format!("{}\n", parts.join("\n\n").trim_end())).unwrap();
    println!("wrote {}", page.display());
}

/// What this machine's part says.
pub(crate) fn page(machine: &str, rows: &[Row]) -> String {
    let lines: Vec<String> = rows.iter().map(Row::line).collect();
    format!(
        "{}\n\n\
         <!-- Made by `cargo xtask bench`; run it to have the figures of your own machine. -->\n\n\
         Measured side by side in one run on one machine, over loopback, medians; Coral as it is \
         shipped (`dist` profile). A ratio above 1 means that Coral is better. Figures depend on \
         the machine, ratios less so.\n\n\
         {machine}\n\n\
         | work | peer | Coral | peer | ratio |\n|---|---|---|---|---|\n{}\n\n\
         \"256 MB\" is 268,435,456 random bytes; a megabyte (MB) of a rate is 10^6 bytes. Pushes are \
         whole requests by curl, answered with 201. Mirrored are 10 images with 90 layers of 465 MB \
         in all, by every tool into a registry of Coral's that is empty at first unless another one is \
         named. Server CPU is \
         user and system time of the registry's process. A store grows to ten times as much: \
         repositories of 100 blobs of 4 KB, and one repository with a tag for every ten blobs. The \
         same pages and images are then asked for again, after a restart at either size. A start \
         ends with the first answer. Garbage collection is measured over as many blobs, named by \
         images of a hundred layers; it runs all the time. Behind a pull-through cache stands a source \
         whose answers share a line of 200 MB/s; the clients have their connections already, and \
         all ask at once. Its copies are the bytes that it sent, by the size of the blob.\n",
        Part::Machine.heading(),
        lines.join("\n")
    )
}
