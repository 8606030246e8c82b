//! The host names that a registry answers for.

use axum::body::Body;
use coral_image::Host;
use coral_registry::{Access, Grant, Grants, Htpasswd, PathPatterns, Settings, Who};
use coral_rt::Transport;
use http::{Request, StatusCode};
use hyper::service::Service as _;
use hyper_util::service::TowerToHyperService;

use crate::client::Served;

const PATHS: [&str; 4] = ["/v2/", "/v2/a/tags/list", "/beside", "/nothing"];

fn request(path: &str, hosts: &[&str], transport: Transport) -> Request<Body> {
    let mut request = Request::get(path).extension(transport);
    for host in hosts {
        request = request.header("host", *host);
    }
    request.body(Body::empty()).unwrap()
}

async fn status(served: &Served, listener: &str, request: Request<Body>) -> StatusCode {
    let beside = axum::routing::get(|| async { "beside" });
    let router = served.router().route("/beside", beside);
    let listener = listener.parse().unwrap();
    let router = served.registry.only_for_its_names(router, listener);
    let service = TowerToHyperService::new(router);
    service.call(request).await.unwrap().status()
}

const REFUSED: StatusCode = StatusCode::MISDIRECTED_REQUEST;

#[tokio::test]
async fn a_registry_on_loopback_answers_only_for_loopback_names_and_its_own() {
    let served = Served::new();
    served.registry.configure(Settings {
        names: vec![Host::parse("registry.example:5000").unwrap()],
        ..Settings::default()
    });
    for listener in ["127.0.0.1:5000", "[::1]:5000"] {
        for path in PATHS {
            for (host, is_own) in [
                ("localhost:1", true),
                ("a.localhost", true),
                ("127.0.0.1:5000", true),
                ("[::1]:5000", true),
                ("registry.example", true),
                ("evil.test:5000", false),
                ("registry.example.evil.test", false),
                ("192.0.2.1:5000", false),
            ] {
                let asked = request(path, &[host], Transport::Plain);
                let status = status(&served, listener, asked).await;
                assert_eq!(status != REFUSED, is_own, "{listener} {path} {host}");
            }
        }
    }
}

#[tokio::test]
async fn a_foreign_host_in_the_target_is_refused_whatever_the_header_says() {
    let served = Served::new();
    for (target, host, expected) in [
        ("http://evil.test/v2/", "localhost", REFUSED),
        ("http://localhost/v2/", "evil.test", REFUSED),
        ("http://localhost/v2/", "localhost", StatusCode::OK),
    ] {
        let asked = request(target, &[host], Transport::Plain);
        let status = status(&served, "127.0.0.1:5000", asked).await;
        assert_eq!(status, expected, "{target} {host}");
    }
}

#[tokio::test]
async fn two_hosts_or_none_are_a_bad_request() {
    let served = Served::new();
    for hosts in [&[][..], &["localhost", "localhost"], &["localhost/x"]] {
        let asked = request("/v2/", hosts, Transport::Plain);
        let status = status(&served, "127.0.0.1:5000", asked).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{hosts:?}");
    }
}

#[tokio::test]
async fn a_registry_with_tls_with_users_or_that_others_reach_answers_for_every_name() {
    let served = Served::new();
    let ask = |transport| request("/v2/", &["evil.test"], transport);
    let open = |listener| status(&served, listener, ask(Transport::Plain));
    assert_eq!(open("0.0.0.0:5000").await, StatusCode::OK);
    assert_eq!(open("192.0.2.1:5000").await, StatusCode::OK);
    let loopback = "127.0.0.1:5000";
    let encrypted = status(&served, loopback, ask(Transport::Encrypted)).await;
    assert_eq!(encrypted, StatusCode::OK);
    let hash = bcrypt::hash_with_salt("a secret", 4, [7; 16]).unwrap();
    let grant = || Grant {
        who: Who::Users(["ci".to_owned()].into()),
        paths: PathPatterns::everything(),
    };
    served.registry.set_access(Access::Granted(Grants {
        users: Htpasswd::parse(&format!("ci:{hash}\n")).unwrap(),
        pull: vec![grant()],
        push: vec![grant()],
    }));
    let with_users = status(&served, loopback, ask(Transport::Plain)).await;
    assert_eq!(with_users, StatusCode::UNAUTHORIZED);
}
