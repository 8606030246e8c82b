//! Signed tokens as credentials, as other people's clients send them. The tokens are made here, with
//! nothing of Coral's.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[path = "registry/server.rs"]
mod server;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::encoding::{AsDer as _, PublicKeyX509Der};
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use e2e::http::{self, Answer};
use e2e::peers::{crane, skopeo_copy};
use e2e::{Finished, Layout, coral, run, scratch, until};
use serde_json::json;
use server::{Server, arguments};

const SOON: Duration = Duration::from_mins(2);
const HOST: &str = "reg.team.example:5000";

/// What signs tokens.
struct Key(Ed25519KeyPair);

impl Key {
    fn new() -> Self {
        Self(Ed25519KeyPair::generate().unwrap())
    }

    fn public_pem(&self) -> String {
        let der: PublicKeyX509Der<'_> = self.0.public_key().as_der().unwrap();
        let text = STANDARD.encode(der.as_ref());
        format!("-----BEGIN PUBLIC KEY-----\n{text}\n-----END PUBLIC KEY-----\n")
    }

    /// A token for what is below `team-a`, valid for ten minutes from `begin` seconds from now.
    fn token(&self, begin: i64) -> String {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let begin = i64::try_from(now.as_secs()).unwrap() + begin;
        let claims = json!({
            "iss": "coral", "aud": [HOST], "sub": "test", "nbf": begin, "exp": begin + 600,
            "access": [{"type": "repository", "name": "team-a/**", "actions": ["pull", "push"]}],
        });
        let header = json!({"alg": "EdDSA", "typ": "JWT"});
        let encode = |part: &serde_json::Value| URL_SAFE_NO_PAD.encode(part.to_string());
        let message = format!("{}.{}", encode(&header), encode(&claims));
        let signature = URL_SAFE_NO_PAD.encode(self.0.sign(message.as_bytes()));
        let token = format!("{message}.{signature}");
        e2e::password("token", &token);
        token
    }
}

/// A registry that takes the tokens of this key, and the file of its keys.
fn serve(home: &Path, key: &Key) -> (Server, PathBuf) {
    let file = home.join("tokens.pem");
    fs::write(&file, key.public_pem()).unwrap();
    let mut command = coral();
    command.args(arguments(&home.join("storage")));
    command
        .arg("--token-keys")
        .arg(&file)
        .args(["--host", HOST]);
    (Server::start_with(&mut command), file)
}

fn push(home: &Path, layout: &Layout, to: &str, token: &str) -> Finished {
    let mut command = skopeo_copy(home, &layout.reference("1"), to);
    let credential = format!("token:{token}");
    run(command.args(["--preserve-digests", "--dest-creds", &credential]))
}

fn ask(server: &Server, token: &str, method: &str, path: &str) -> Answer {
    let url = format!("http://{}{path}", server.address);
    let header = format!("Authorization: Bearer {token}");
    http::request(&["--request", method, "--header", &header, &url])
}

fn status(server: &Server, token: &str, method: &str, path: &str) -> u16 {
    ask(server, token, method, path).status
}

#[test]
#[ignore = "needs skopeo and crane; run by cargo xtask test"]
fn a_token_pushes_below_its_names_and_nowhere_else() {
    let (home, key) = (scratch(), Key::new());
    let (server, _) = serve(home.path(), &key);
    let layout = Layout::open(home.path().join("image"));
    layout.tag("1", &layout.add_image("amd64", b"a layer"));
    let token = key.token(0);
    let name = |path: &str| format!("{}/{path}", server.address);
    let to = |path: &str| format!("docker://{}", name(path));
    let _ = push(home.path(), &layout, &to("team-a/app:1"), &token).succeeded();
    for path in ["team-ab/app:1", "docker.io/library/app:1", "app:1"] {
        let refused = push(home.path(), &layout, &to(path), &token);
        assert_ne!(refused.code, 0, "{refused}");
        assert!(refused.stderr.contains("403"), "{refused}");
    }
    let mut login = crane(home.path());
    login.args([
        "auth",
        "login",
        &server.address,
        "-u",
        "token",
        "-p",
        &token,
    ]);
    let _ = run(&mut login).succeeded();
    let digest = run(crane(home.path()).args(["digest", &name("team-a/app:1")])).succeeded();
    assert_eq!(digest.text(), layout.tagged("1")["digest"]);
    let manifest = "/v2/team-a/app/manifests/1";
    for (method, path, expected) in [
        ("GET", manifest, 200),
        ("GET", "/v2/team-a/app/tags/list", 200),
        ("DELETE", manifest, 403),
        ("GET", "/v2/_catalog", 403),
    ] {
        assert_eq!(
            status(&server, &token, method, path),
            expected,
            "{method} {path}"
        );
    }
    for (wrong, reason) in [
        (key.token(-3600), "expired"),
        (Key::new().token(0), "not signed by a key"),
    ] {
        let refused = push(home.path(), &layout, &to("team-a/app:2"), &wrong);
        assert_ne!(refused.code, 0, "{refused}");
        assert!(refused.stderr.contains("unauthorized"), "{refused}");
        let answer = ask(&server, &wrong, "GET", manifest);
        let said = answer.json()["errors"][0]["message"].to_string();
        assert!(said.contains(reason), "{said}");
    }
    assert_eq!(
        http::get(&format!("http://{}{manifest}", server.address)).status,
        401
    );
}

#[test]
#[ignore = "needs curl; run by cargo xtask test"]
fn changed_keys_are_read_again_and_broken_ones_are_not() {
    let (home, old, new) = (scratch(), Key::new(), Key::new());
    let (mut server, file) = serve(home.path(), &old);
    let (old_token, new_token) = (old.token(0), new.token(0));
    let taken = |server: &Server, token: &str| status(server, token, "GET", "/v2/");
    assert_eq!(
        (taken(&server, &old_token), taken(&server, &new_token)),
        (200, 401)
    );
    fs::write(&file, old.public_pem() + &new.public_pem()).unwrap();
    until("the new key is known", SOON, || {
        (taken(&server, &new_token) == 200).then_some(())
    });
    assert_eq!(taken(&server, &old_token), 200);
    fs::write(&file, "no key").unwrap();
    server
        .process
        .wait_for_line("the previous token keys stay in effect", SOON);
    assert_eq!(taken(&server, &new_token), 200);
    fs::write(&file, new.public_pem()).unwrap();
    until("the old key is forgotten", SOON, || {
        (taken(&server, &old_token) == 401).then_some(())
    });
    assert_eq!(taken(&server, &new_token), 200);
}

/// A registry must not stay down because the file is not there: users and public paths need none.
#[test]
#[ignore = "needs curl; run by cargo xtask test"]
fn without_the_file_of_keys_a_registry_starts_and_takes_no_token() {
    let (home, key) = (scratch(), Key::new());
    let mut command = coral();
    command.args(arguments(&home.path().join("storage")));
    command.args(["--token-keys", "/nowhere/tokens.pem", "--host", HOST]);
    let server = Server::start_with(&mut command);
    let warning = "every token is refused until the file is corrected";
    assert!(server.process.shown().contains(warning));
    assert_eq!(status(&server, &key.token(0), "GET", "/v2/"), 401);
    let url = format!("http://{}/v2/", server.address);
    assert_eq!(http::get(&url).status, 401);
}
