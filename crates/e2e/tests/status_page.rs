//! The status page beside the registry, seen by a real browser with JavaScript off.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::time::Duration;

use e2e::browser::{self, Colours};
use e2e::{FaultServer, Up, mirror_yaml, scratch, until, write_yaml};
use serde_json::{Value, json};
use tempfile::TempDir;

const SOON: Duration = Duration::from_mins(2);

/// A registry with a mirrored index, a mirrored image and one that is missing at its source.
struct Scene {
    up: Up,
    source: FaultServer,
    _home: TempDir,
}

impl Scene {
    fn new() -> Self {
        let home = scratch();
        let source = FaultServer::registry(&[]);
        source.load(&json!({"path": "team/app", "tag": "1.0", "kind": "index"}));
        source.load(&json!({"path": "team/tool", "tag": "latest"}));
        let app = format!("{}/team/app", source.host());
        let tool = format!("{}/team/tool", source.host());
        let gone = format!("{}/team/gone", source.host());
        let list = [(app.as_str(), "1.0"), (&tool, "latest"), (&gone, "2")];
        let yaml = write_yaml(home.path(), &mirror_yaml("web", &list, ""));
        let mut up = Up::start(
            &yaml,
            &home.path().join("data"),
            &["--plain-http", source.host()],
        );
        let folder = source.folder_name();
        up.wait_for(&format!("{folder}/team/app"), "1.0", SOON);
        up.wait_for(&format!("{folder}/team/tool"), "latest", SOON);
        up.process().wait_for_line("failed", SOON);
        Self {
            up,
            source,
            _home: home,
        }
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.up.host())
    }

    fn status(&self) -> Value {
        e2e::http::get(&self.url("/status.json")).json()
    }
}

fn has(html: &str, text: &str) {
    assert!(html.contains(text), "no {text:?} in:\n{html}");
}

/// The browser shows the page as it is: nothing of it was kept back by its policy, and it says so
/// of nothing.
fn clean(dom: &browser::Dom) {
    for word in ["Content Security Policy", "Refused to", "ERROR:CONSOLE"] {
        assert!(!dom.log.contains(word), "{word} in:\n{}", dom.log);
    }
    assert!(!dom.html.contains("<script"), "{}", dom.html);
}

#[test]
#[ignore = "needs chromium, the release binary; run by cargo xtask test"]
fn the_start_page_tells_of_mirrors_failures_and_repositories() {
    let scene = Scene::new();
    let page = browser::dom(&scene.url("/"));
    clean(&page);
    has(&page.html, "default/web");
    has(&page.html, "Needs attention");
    has(&page.html, &format!("{}/team/gone:2", scene.source.host()));
    has(&page.html, "has no tag 2");
    has(&page.html, "next <time");
    let repository = format!("/repositories/{}/team/app", scene.source.folder_name());
    has(&page.html, &format!("href=\"{repository}\""));
}

#[test]
#[ignore = "needs chromium, the release binary; run by cargo xtask test"]
fn a_mirrors_page_tells_of_each_image() {
    let scene = Scene::new();
    let page = browser::dom(&scene.url("/mirrors/default/web"));
    clean(&page);
    has(&page.html, &format!("{}/team/app:1.0", scene.source.host()));
    has(&page.html, "mirrored</span>");
    let shown = scene.status();
    let images = shown["mirrors"][0]["images"].as_array().unwrap();
    let app = images.iter().find(|image| {
        let reference = image["reference"].as_str().unwrap_or_default();
        reference.ends_with("team/app:1.0")
    });
    let digest = app.unwrap()["digest"].as_str().unwrap();
    has(&page.html, digest);
    let failing = browser::dom(&scene.url("/mirrors/default/web?show=failed"));
    has(&failing.html, "team/gone:2");
    assert!(!failing.html.contains("team/app:1.0"), "{}", failing.html);
}

#[test]
#[ignore = "needs chromium, the release binary; run by cargo xtask test"]
fn a_repositorys_page_has_platforms_and_commands_that_work() {
    let scene = Scene::new();
    let path = format!("{}/team/app", scene.source.folder_name());
    let page = browser::dom(&scene.url(&format!("/repositories/{path}")));
    clean(&page);
    has(&page.html, "linux/amd64");
    has(&page.html, "linux/arm64");
    let reference = format!("{}/{path}:1.0", scene.up.host());
    has(&page.html, &format!("docker pull {reference}"));
    let line = page.html.split("<code>").find_map(|part| {
        let line = part.split('<').next()?;
        line.starts_with("skopeo copy").then(|| line.to_owned())
    });
    let home = scratch();
    let mut shell = std::process::Command::new("sh");
    shell.args(["-c", &line.unwrap()]).current_dir(home.path());
    let _ = e2e::run(shell.env("HOME", home.path())).succeeded();
}

#[test]
#[ignore = "needs the release binary; run by cargo xtask test"]
fn machines_read_the_same_as_json() {
    let scene = Scene::new();
    let status = until("an image in error or failing", SOON, || {
        let status = scene.status();
        let mirror = &status["mirrors"][0];
        (mirror["mirrored"] == 2 && mirror["failed"] == 1).then_some(status)
    });
    let mirror = &status["mirrors"][0];
    assert_eq!(mirror["name"], "default/web", "{status}");
    assert_eq!(mirror["desired"], 3, "{status}");
    let images = mirror["images"].as_array().unwrap();
    let gone = images.iter().find(|image| image["message"].is_string());
    let gone = gone.unwrap();
    assert!(
        gone["message"].as_str().unwrap().contains("has no tag 2"),
        "{gone}"
    );
    assert!(gone["attempts"].as_u64().unwrap() >= 1, "{gone}");
    assert!(
        ["Failing", "Error"]
            .iter()
            .any(|state| gone["state"] == *state)
    );
    let [failure] = mirror["failures"].as_array().unwrap().as_slice() else {
        panic!("not one failure: {mirror}");
    };
    assert_eq!(failure["reference"], gone["reference"], "{mirror}");
    let repositories = mirror["repositories"].as_array().unwrap();
    assert!(repositories.iter().all(|r| r["images"] == 1), "{mirror}");
    let app = images
        .iter()
        .find(|image| image["platforms"][1].is_string());
    assert!(app.unwrap()["size"].as_u64().unwrap() > 1000, "{status}");
    assert_eq!(app.unwrap()["state"], "Mirrored", "{status}");
    let names = status["repositories"]["names"].as_array().unwrap();
    assert_eq!(names.len(), 2, "{status}");
}

#[test]
#[ignore = "needs the release binary; run by cargo xtask test"]
fn every_page_is_guarded_and_lets_nothing_in() {
    let scene = Scene::new();
    for path in [
        "/",
        "/mirrors/default/web",
        "/repositories",
        "/status.json",
        "/repositories/no/such",
    ] {
        let answer = e2e::http::get(&scene.url(path));
        let policy = answer.header("content-security-policy").unwrap();
        has(policy, "default-src 'none'");
        assert!(!policy.contains("unsafe"), "{policy}");
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
        assert_eq!(answer.header("cache-control"), Some("no-store"));
    }
    let hostile = [
        "/?last=%3Cscript%3E",
        "/mirrors/a/%3Cscript%3Ealert(1)%3C%2Fscript%3E",
        "/repositories/%3Cimg%20src=x%3E",
        "/mirrors/default/web?show=%22%3E%3Cscript%3E&page=99999999999999999999",
    ];
    for path in hostile {
        let answer = e2e::http::request(&["--header", "Host: \"><script>", &scene.url(path)]);
        let body = String::from_utf8_lossy(&answer.body).into_owned();
        assert!(
            !body.contains("<script") && !body.contains("<img"),
            "{path}: {body}"
        );
        assert!(answer.status < 500, "{path}: {}", answer.status);
    }
    // A person gets a page for what is not there; a client of the registry gets no HTML.
    for path in ["/mirrors", "/index.html", "/repositories/"] {
        let answer = e2e::http::request(&["--header", "Accept: text/html", &scene.url(path)]);
        assert_eq!(answer.status, 404, "{path}");
        has(&String::from_utf8_lossy(&answer.body), "To the start page");
        let answer = e2e::http::get(&scene.url(path));
        assert_eq!((answer.status, answer.body.len()), (404, 0), "{path}");
    }
    let answer = e2e::http::request(&["--request", "POST", &scene.url("/")]);
    assert_eq!(answer.status, 405);
    assert_eq!(e2e::http::get(&scene.url("/v2/")).status, 200);
}

#[test]
#[ignore = "needs chromium, the release binary; run by cargo xtask test"]
fn it_is_light_or_dark_as_the_reader_likes() {
    let scene = Scene::new();
    let home = scratch();
    let picture = |name: &str, colours| {
        let file = home.path().join(name);
        browser::screenshot(&scene.url("/"), &file, (1200, 900), colours);
        std::fs::read(&file).unwrap()
    };
    let light = picture("light.png", Colours::Light);
    let dark = picture("dark.png", Colours::Dark);
    assert!(light.starts_with(b"\x89PNG") && dark.starts_with(b"\x89PNG"));
    assert_ne!(light, dark, "the page looks the same in light and in dark");
}

/// A registry with two users: `all` reads everything, `web` and everybody below `web/`.
fn guarded(home: &std::path::Path) -> (e2e::Process, String) {
    let mut lines = String::new();
    for user in ["all", "web"] {
        let password = format!("{user}-password-7");
        e2e::password(user, &password);
        let mut htpasswd = std::process::Command::new("htpasswd");
        lines += &e2e::run(htpasswd.args(["-Bbn", user, &password]))
            .succeeded()
            .stdout;
    }
    let users = home.join("users");
    std::fs::write(&users, lines).unwrap();
    let mut command = e2e::coral();
    command.args(["registry", "serve", "--listen", "127.0.0.1:0", "--storage"]);
    command
        .arg(home.join("storage"))
        .arg("--htpasswd")
        .arg(users);
    command.args(["--allow-pull", "all=**", "--allow-pull", "web=web/**"]);
    command.args(["--anonymous-read=open/**", "--allow-push", "all=**"]);
    let mut process = e2e::Process::start(&mut command);
    let line = process.wait_for_line("registry listening on http://", SOON);
    let host = line.rsplit('/').next().unwrap().trim().to_owned();
    let layout = e2e::Layout::open(home.join("image"));
    layout.tag("1", &layout.add_image("amd64", b"a layer"));
    for repository in ["open/a", "web/b", "hidden/c"] {
        let to = format!("docker://{host}/{repository}:1");
        let mut copy = e2e::peers::skopeo_copy(home, &layout.reference("1"), &to);
        copy.args(["--dest-creds", "all:all-password-7"]);
        let _ = e2e::run(&mut copy).succeeded();
    }
    (process, host)
}

#[test]
#[ignore = "needs htpasswd, skopeo, the release binary; run by cargo xtask test"]
fn no_user_sees_more_than_they_may_pull() {
    let home = scratch();
    let (_process, host) = guarded(home.path());
    let ask = |user: &str, path: &str| {
        let url = format!("http://{host}{path}");
        let login = format!("{user}:{user}-password-7");
        let words: &[&str] = if user.is_empty() {
            &[]
        } else {
            &["--user", &login]
        };
        let answer = e2e::http::request(&[words, &[url.as_str()]].concat());
        (
            answer.status,
            String::from_utf8_lossy(&answer.body).into_owned(),
        )
    };
    for path in ["/", "/repositories", "/status.json"] {
        for (user, seen) in [
            ("", vec!["open/a"]),
            ("web", vec!["open/a", "web/b"]),
            ("all", vec!["open/a", "web/b", "hidden/c"]),
        ] {
            let (status, body) = ask(user, path);
            assert_eq!(status, 200, "{user} at {path}: {body}");
            for name in ["open/a", "web/b", "hidden/c"] {
                let is_there = body.contains(name);
                assert_eq!(
                    is_there,
                    seen.contains(&name),
                    "{user} at {path}: {name} in {body}"
                );
            }
        }
    }
    assert_eq!(ask("", "/repositories/hidden/c").0, 401);
    assert_eq!(ask("web", "/repositories/hidden/c").0, 403);
    assert_eq!(ask("all", "/repositories/hidden/c").0, 200);
    assert_eq!(ask("", "/mirrors/default/web").0, 401);
    assert_eq!(ask("", "/login").0, 401);
    assert_eq!(ask("all", "/login").0, 303);
}

/// The rows of the table on a page.
fn rows(url: &str) -> usize {
    let body = e2e::http::get(url).body;
    let text = String::from_utf8_lossy(&body).into_owned();
    text.matches("<th scope=\"row\"").count()
        + text.matches("<th class=\"tag\" scope=\"row\"").count()
}

#[test]
#[ignore = "needs the release binary; run by cargo xtask test"]
fn long_lists_come_page_by_page() {
    let home = scratch();
    let source = FaultServer::registry(&[]);
    for number in 0..60 {
        let (tag, seed) = (format!("v{number:02}"), 7);
        source.load(&json!({"path": "many/tags", "tag": tag, "layers": [10], "seed": seed}));
    }
    let spec = format!(
        "apiVersion: stvz.io/v1\nkind: RegistryMirror\nmetadata:\n  name: many\nspec:\n  \
         registry:\n    name: local\n  repositories:\n    - name: {}/many/tags\n      \
         select:\n        all: true\n",
        source.host()
    );
    let yaml = write_yaml(home.path(), &spec);
    let data = home.path().join("data");
    let up = Up::start(&yaml, &data, &["--plain-http", source.host()]);
    let url = |path: &str| format!("http://{}{path}", up.host());
    until("sixty images", SOON, || {
        let status = e2e::http::get(&url("/status.json?mirror=default/many")).json();
        (status["mirrors"][0]["mirrored"] == 60).then_some(())
    });
    assert_eq!(rows(&url("/mirrors/default/many")), 50);
    assert_eq!(rows(&url("/mirrors/default/many?page=2")), 10);
    assert_eq!(rows(&url("/mirrors/default/many?page=3")), 0);
    assert_eq!(rows(&url("/mirrors/default/many?show=failed")), 0);
    let path = format!("/repositories/{}/many/tags", source.folder_name());
    assert_eq!(rows(&url(&path)), 50);
    assert_eq!(rows(&url(&format!("{path}?page=2"))), 10);
    let newest = e2e::http::get(&url(&path)).body;
    let newest = String::from_utf8_lossy(&newest).into_owned();
    assert!(
        newest.contains("v59") && !newest.contains("v09"),
        "the newest are first"
    );
    assert_eq!(rows(&url(&format!("{path}?q=v1"))), 10);
    assert_eq!(rows(&url("/repositories?q=MANY")), 1);
    assert_eq!(rows(&url("/repositories?q=few")), 0);
    let status = e2e::http::get(&url("/status.json?page=2")).json();
    assert_eq!(status["mirrors"][0]["images"].as_array().unwrap().len(), 10);
    assert_eq!(status["mirrors"][0]["pages"], 2);
}

/// A Registry with a login, and a Secret with its users: everybody reads below `open/`.
fn registry_yaml(user: &str, word: &str) -> String {
    let mut htpasswd = std::process::Command::new("htpasswd");
    let line = e2e::run(htpasswd.args(["-Bbn", user, word])).succeeded();
    e2e::password(user, word);
    format!(
        "---\napiVersion: stvz.io/v1\nkind: Registry\nmetadata:\n  name: local\nspec:\n  auth:\n    \
         htpasswd:\n      secretName: users\n    pull:\n      - anonymous: true\n        \
         paths: [\"open/**\"]\n      - users: [{user}]\n---\napiVersion: v1\nkind: Secret\n\
         metadata:\n  name: users\nstringData:\n  htpasswd: '{}'\n",
        line.text()
    )
}

#[test]
#[ignore = "needs htpasswd, the release binary; run by cargo xtask test"]
fn mirrors_are_shown_to_those_who_may_pull_everything() {
    let (home, source) = (scratch(), FaultServer::registry(&[]));
    source.load(&json!({"path": "team/app", "tag": "1"}));
    let app = format!("{}/team/app", source.host());
    let yaml = mirror_yaml("hush", &[(&app, "1")], "") + &registry_yaml("ada", "lace-lace-9");
    let yaml = write_yaml(home.path(), &yaml);
    let data = home.path().join("data");
    let mut up = Up::start(&yaml, &data, &["--plain-http", source.host()]);
    up.process().wait_for_line("mirrored ", SOON);
    for path in ["/", "/status.json", "/repositories"] {
        let url = format!("http://{}{path}", up.host());
        let stranger = e2e::http::get(&url);
        let text = String::from_utf8_lossy(&stranger.body).into_owned();
        assert_eq!(stranger.status, 200, "{path}: {text}");
        assert!(
            !text.contains("hush") && !text.contains("team/app"),
            "{path}: {text}"
        );
        let ada = e2e::http::request(&["--user", "ada:lace-lace-9", &url]);
        has(&String::from_utf8_lossy(&ada.body), "team/app");
    }
    let url = format!("http://{}/mirrors/default/hush", up.host());
    assert_eq!(e2e::http::get(&url).status, 401);
    let ada = e2e::http::request(&["--user", "ada:lace-lace-9", &url]);
    has(&String::from_utf8_lossy(&ada.body), "mirrored</span>");
}
