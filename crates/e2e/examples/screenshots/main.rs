//! The pictures of the documentation, taken from the running program.
//!
//! Run by `cargo xtask screenshots`. The only argument is the folder to write to. The registries
//! outside are played by the fault registry, which stands as a proxy before every host.

#![allow(clippy::print_stdout, reason = "a recipe says what it does")]
#![allow(clippy::unwrap_used, reason = "a recipe that cannot go on stops")]

mod scene;
mod terminal;

use std::path::PathBuf;
use std::time::Duration;

use e2e::browser::{Colours, screenshot};
use e2e::until;
use scene::Scene;

const PATIENCE: Duration = Duration::from_mins(1);

fn main() {
    let folder = std::env::args_os().nth(1).map(PathBuf::from);
    let folder = folder.expect("the folder to write to");
    std::fs::create_dir_all(&folder).unwrap();
    let scene = Scene::new();
    terminal::take(&scene, &folder.join("progress.png"));
    let up = scene.up();
    until("all but one image mirrored", PATIENCE, || {
        let status = e2e::http::get(&format!("http://{}/status.json", up.host())).json();
        let mirrors = status["mirrors"].as_array()?;
        let count = |name: &str| {
            mirrors
                .iter()
                .filter_map(|mirror| mirror[name].as_u64())
                .sum::<u64>()
        };
        (mirrors.len() == 3 && count("pending") == 0 && count("failed") == 1).then_some(())
    });
    let repository = "/repositories/docker.io/library/nginx";
    for (name, path, size, colours) in [
        ("status-light.png", "/", (1240, 1000), Colours::Light),
        ("status-dark.png", "/", (1240, 1000), Colours::Dark),
        (
            "repository-light.png",
            repository,
            (1240, 560),
            Colours::Light,
        ),
    ] {
        let file = folder.join(name);
        screenshot(&format!("http://{}{path}", up.host()), &file, size, colours);
        println!("wrote {}", file.display());
    }
}
