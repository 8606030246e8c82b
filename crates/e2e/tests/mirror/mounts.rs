//! Mirrors into registries that do not say where they have a blob: a later process mounts what its
//! mirror's other images have there.

use e2e::peers::skopeo_copy;
use e2e::{
    FaultServer, Layout, RegistryProgram, RegistryServer, Request, coral, mirror_yaml, run, scratch,
};

use super::write_yaml;

/// Bytes of a layer that all images share, and of the one that each has to itself.
const SHARED: usize = 2_000_000;
const OWN: usize = 300_000;

fn reads_only_what_the_destination_lacks(kind: RegistryProgram) {
    let home = scratch();
    let origin = RegistryServer::start(kind);
    for number in 0..4_u8 {
        let layout = Layout::open(home.path().join(format!("image{number}")));
        let layers = [vec![7; SHARED], vec![number; OWN]];
        layout.tag("1", &layout.add_layered_image("amd64", &layers));
        let to = format!("docker://{}/team/app{number}:1", origin.host());
        let mut push = skopeo_copy(home.path(), &layout.reference("1"), &to);
        let _ = run(push.arg("--preserve-digests")).succeeded();
    }
    let source = FaultServer::proxy(origin.host().as_str());
    let target = RegistryServer::start(kind);
    let pass = |numbers: std::ops::Range<u8>| {
        let names: Vec<String> = numbers
            .map(|number| format!("{}/team/app{number}", source.host()))
            .collect();
        let images: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "1")).collect();
        let yaml = write_yaml(home.path(), &mirror_yaml("m", &images, ""));
        let mut command = coral();
        command.args(["mirror", "run"]).arg(yaml);
        command.args(["--registry", &target.host()]);
        command.args(["--plain-http", source.host()]);
        command.args(["--plain-http", &target.host()]);
        let _ = run(command.env("HOME", home.path())).succeeded();
    };
    pass(0..2);
    source.forget();
    // A process of its own, that remembers nothing of the first one.
    pass(0..4);
    let requests = source.requests();
    let read = requests.iter().filter(|request| request.reads_blob());
    let large: Vec<&Request> = read.filter(|r| r.sent > 100_000).collect();
    let bytes: u64 = large.iter().map(|request| request.sent).sum();
    assert_eq!(bytes, 2 * OWN as u64, "{large:#?}");
    for number in 0..4 {
        let image = format!("{}/team/app{number}", source.folder_name());
        let mut check = skopeo_copy(
            home.path(),
            &format!("docker://{}/{image}:1", target.host()),
            &format!(
                "oci:{}",
                home.path().join(format!("back{number}")).display()
            ),
        );
        let _ = run(check.arg("--preserve-digests")).succeeded();
    }
}

#[test]
#[ignore = "needs docker-registry, skopeo; run by cargo xtask test"]
fn docker_registry_mounts_what_it_has_and_no_byte_of_it_is_read() {
    reads_only_what_the_destination_lacks(RegistryProgram::DockerRegistry);
}

#[test]
#[ignore = "needs distribution, skopeo; run by cargo xtask test"]
fn distribution_mounts_what_it_has_and_no_byte_of_it_is_read() {
    reads_only_what_the_destination_lacks(RegistryProgram::Distribution);
}
