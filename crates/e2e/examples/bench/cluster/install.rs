//! From nothing to ready: `kubectl apply -k deploy/`.

use std::time::Instant;

use e2e::cluster::Cluster;

use super::Figure;

const RUNS: usize = 3;

/// Installs and uninstalls; the last installation stays for what is measured next.
pub(crate) fn measure(cluster: &Cluster) -> Vec<Figure> {
    cluster.load_image();
    let mut runs = Vec::new();
    for run in 1..=RUNS {
        let began = Instant::now();
        cluster.apply_deploy();
        cluster.wait_until_installed();
        runs.push(began.elapsed().as_secs_f64());
        if run < RUNS {
            let _ = cluster.uninstall(&[]).succeeded();
            let _ = cluster.delete_deploy().succeeded();
        }
    }
    vec![Figure {
        work: "`kubectl apply -k deploy/` until every part is ready".to_owned(),
        unit: "s",
        runs,
    }]
}
