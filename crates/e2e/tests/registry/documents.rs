//! Registry documents and what belongs to them.

#![allow(dead_code, reason = "each test binary has its own use of documents")]

use std::fs;
use std::path::{Path, PathBuf};

use e2e::{Layout, RegistryProgram, RegistryServer, mirror_yaml, run};

/// A Registry of the name that the mirrors of these tests have as their destination.
pub(crate) fn registry(spec: &str) -> String {
    let head = "apiVersion: stvz.io/v1\nkind: Registry\nmetadata:\n  name: local\n";
    format!("{head}spec:\n{spec}")
}

/// A Secret with texts of several lines.
pub(crate) fn secret(name: &str, kind: &str, values: &[(&str, &str)]) -> String {
    let value = |(key, text): &(&str, &str)| {
        let lines = text.lines().map(|line| format!("    {line}\n"));
        format!("  {key}: |\n{}", lines.collect::<String>())
    };
    let values: String = values.iter().map(value).collect();
    let head = format!("apiVersion: v1\nkind: Secret\nmetadata:\n  name: {name}\n");
    format!("{head}type: {kind}\nstringData:\n{values}")
}

/// A folder of files, each with its documents.
pub(crate) struct Files(pub(crate) PathBuf);

impl Files {
    pub(crate) fn new(home: &Path) -> Self {
        let folder = home.join("yaml");
        fs::create_dir(&folder).expect("scratch is writable");
        Self(folder)
    }

    pub(crate) fn write(&self, name: &str, documents: &[&str]) {
        let text = documents.join("---\n");
        fs::write(self.0.join(name), text).expect("scratch is writable");
    }

    pub(crate) fn remove(&self, name: &str) {
        fs::remove_file(self.0.join(name)).expect("the file is there");
    }
}

/// A source with the image `team/app:1`, and its digest.
pub(crate) fn source(home: &Path) -> (RegistryServer, String) {
    let source = RegistryServer::start(RegistryProgram::DockerRegistry);
    let layout = Layout::open(home.join("source"));
    let image = layout.add_image("amd64", b"a layer");
    layout.tag("1", &image);
    let to = format!("docker://{}/team/app:1", source.host());
    let mut push = e2e::peers::skopeo_copy(home, &layout.reference("1"), &to);
    let _ = run(push.arg("--preserve-digests")).succeeded();
    (
        source,
        image["digest"].as_str().expect("a digest").to_owned(),
    )
}

/// A mirror of that image.
pub(crate) fn mirror(source: &RegistryServer) -> String {
    mirror_yaml("app", &[(&format!("{}/team/app", source.host()), "1")], "")
}
