//! What clients may not do: write below a source, or read it without the right to.

use e2e::{FaultServer, coral, http, scratch};

use crate::server::{Server, arguments};
use crate::stand::{Stand, one};
use crate::users::{self, CI};

#[test]
#[ignore = "needs the release binary; run by cargo xtask test"]
fn nothing_is_pushed_or_deleted_below_a_source() {
    let stand = Stand::start();
    let image = stand.load(&one("1", 1, &[700]));
    stand.has_all("1", &image);
    stand.wait_until_stored("1", &image);
    stand.source.forget();
    let digest = e2e::sha256(b"mine");
    let blob = image.blob_of(700);
    let manifest = "application/vnd.oci.image.manifest.v1+json";
    for (method, what) in [
        ("POST", "blobs/uploads/".to_owned()),
        ("POST", format!("blobs/uploads/?digest={digest}")),
        ("POST", format!("blobs/uploads/?mount={blob}&from=own")),
        ("PUT", "manifests/1".to_owned()),
        ("DELETE", "manifests/1".to_owned()),
        ("DELETE", format!("manifests/{}", image.digest)),
        ("DELETE", format!("blobs/{blob}")),
    ] {
        let kind = [("Content-Type", manifest)];
        let target = stand.target(&what);
        let reply = stand.wire().call(method, &target, &kind, b"mine").unwrap();
        let said = String::from_utf8_lossy(&reply.body).into_owned();
        assert_eq!(reply.status, 405, "{method} {what}: {said}");
        assert!(said.contains("UNSUPPORTED"), "{method} {what}: {said}");
        assert!(said.contains("pulled through"), "{method} {what}: {said}");
    }
    assert_eq!(stand.source.requests(), [], "the source was not asked");
    stand.has_all("1", &image);
    // Beside the sources the registry is what it was.
    let own = stand
        .wire()
        .call("POST", "/v2/own/app/blobs/uploads/", &[], b"");
    assert_eq!(own.unwrap().status, 202);
}

#[test]
#[ignore = "needs htpasswd; run by cargo xtask test"]
fn a_client_without_the_right_to_pull_causes_no_request_to_the_source() {
    let home = scratch();
    let source = FaultServer::registry(&[]);
    let made = source.load(&one("1", 1, &[700]));
    let mut command = coral();
    command.args(arguments(&home.path().join("storage")));
    command
        .arg("--htpasswd")
        .arg(users::file(home.path(), &[CI]));
    let coral = Server::start_with(command.args(["--pull-through", source.host()]));
    let repository = format!(
        "http://{}/v2/{}/team/app",
        coral.address,
        source.folder_name()
    );
    let manifest = format!("{repository}/manifests/1");
    for url in [
        manifest.clone(),
        format!(
            "{repository}/blobs/{}",
            made["blobs"][0]["digest"].as_str().unwrap()
        ),
        format!("{repository}/tags/list"),
    ] {
        assert_eq!(http::get(&url).status, 401, "{url}");
    }
    let routed = format!(
        "http://{}/v2/team/app/manifests/1?ns={}",
        coral.address,
        source.host()
    );
    assert_eq!(http::get(&routed).status, 404);
    assert_eq!(source.requests(), []);
    let login = format!("{}:{}", CI.0, CI.1);
    let answer = http::request(&["--user", &login, &manifest]);
    assert_eq!(answer.status, 200);
    // The password is for Coral.
    let requests = source.requests();
    assert!(!requests.is_empty());
}

#[test]
#[ignore = "needs the release binary; run by cargo xtask test"]
fn hosts_that_are_not_named_are_not_asked() {
    let stand = Stand::start();
    let other = FaultServer::registry(&[]);
    other.load(&one("1", 1, &[700]));
    for target in [
        format!("/v2/{}/team/app/manifests/1", other.folder_name()),
        format!("/v2/team/app/manifests/1?ns={}", other.host()),
    ] {
        assert_eq!(http::get(&stand.url(&target)).status, 404, "{target}");
    }
    assert_eq!(other.requests(), []);
}
