//! What Coral writes about itself: as text or JSON, with names of requests, without secrets.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[path = "logs/access.rs"]
mod access;
#[path = "registry/users.rs"]
mod users;

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use e2e::{FaultServer, Process, coral, mirror_yaml, run, scratch, until, write_yaml};
use serde_json::{Value, json};

const SOON: Duration = Duration::from_mins(2);
const PASSWORD: &str = "open-sesame-1001";

/// Every line on standard error, read as JSON.
fn lines(process: &Process) -> Vec<Value> {
    let parse = |line: &str| {
        serde_json::from_str(line).unwrap_or_else(|error| panic!("{error} in {line:?}"))
    };
    // The last line may not be whole yet.
    let text = process.stderr();
    let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
    whole.lines().map(parse).collect()
}

fn serve(home: &Path, log: &str) -> (Process, String) {
    serve_with(home, log, &[])
}

fn serve_with(home: &Path, log: &str, more: &[&str]) -> (Process, String) {
    let mut command: Command = coral();
    command.args(["registry", "serve", "--listen", "127.0.0.1:0", "--storage"]);
    command.arg(home.join("storage"));
    command.args(["--log", log, "--log-format", "json"]);
    command.args(more);
    let mut process = Process::start(&mut command);
    process.wait_for_line("registry listening on", SOON);
    let first = lines(&process).remove(0);
    let message = first["fields"]["message"].as_str().unwrap();
    let host = message.rsplit('/').next().unwrap().to_owned();
    (process, host)
}

#[test]
#[ignore = "needs the release binary; run by cargo xtask test"]
fn a_request_has_its_name_in_the_answer_and_in_the_log() {
    let home = scratch();
    let (process, host) = serve(home.path(), "debug");
    let url = format!("http://{host}/v2/no/such/tags/list");
    let given = e2e::http::request(&["--header", "X-Request-Id: build-42", &url]);
    assert_eq!(given.header("x-request-id"), Some("build-42"));
    let odd = e2e::http::request(&["--header", "X-Request-Id: a b\"c", &url]);
    let made = odd.header("x-request-id").unwrap().to_owned();
    assert_ne!(made, "a b\"c");
    for id in ["build-42", &made] {
        let line = until("a log line with the name", SOON, || {
            let mut lines = lines(&process).into_iter();
            lines.find(|line| line["span"]["id"] == id)
        });
        assert_eq!(line["fields"]["message"], "answered", "{line}");
        assert_eq!(line["fields"]["path"], "/v2/no/such/tags/list", "{line}");
    }
}

/// A registry that asks for a token, and a mirror with the password for it in a Secret.
fn private_mirror(home: &Path) -> (FaultServer, std::path::PathBuf) {
    let auth = json!({"bearer": {"username": "ali", "password": PASSWORD}});
    e2e::passwords_in(&auth);
    let source = FaultServer::registry(&["--auth", &auth.to_string()]);
    source.load(&json!({"path": "cave/gold", "tag": "1"}));
    let config = json!({"auths": {source.host(): {"username": "ali", "password": PASSWORD}}});
    let (gold, gone) = (
        format!("{}/cave/gold", source.host()),
        format!("{}/cave/gone", source.host()),
    );
    let yaml = mirror_yaml(
        "cave",
        &[(&gold, "1"), (&gone, "1")],
        "  imagePullSecrets:\n    - name: pull\n",
    );
    let yaml = format!(
        "{yaml}---\napiVersion: v1\nkind: Secret\nmetadata:\n  name: pull\n\
         type: kubernetes.io/dockerconfigjson\nstringData:\n  .dockerconfigjson: '{config}'\n"
    );
    (source, write_yaml(home, &yaml))
}

#[test]
#[ignore = "needs the release binary; run by cargo xtask test"]
fn at_the_loudest_every_line_is_json_names_its_image_and_holds_no_secret() {
    let home = scratch();
    let (source, yaml) = private_mirror(home.path());
    let mut command = coral();
    command
        .arg("up")
        .arg(yaml)
        .args(["--listen", "127.0.0.1:0"]);
    command.args(["--plain-http", source.host()]);
    command.args(["--log", "trace", "--log-format", "json", "--data"]);
    command
        .arg(home.path().join("data"))
        .env("HOME", home.path());
    let mut process = Process::start(&mut command);
    process.wait_for_line("mirrored 127", SOON);
    process.wait_for_line("failed 127", SOON);
    let gold = format!("{}/cave/gold:1", source.host());
    let told = lines(&process);
    let copied = told
        .iter()
        .find(|line| line["fields"]["message"] == "copied");
    let copied = copied.expect("a log line of the copy");
    assert_eq!(copied["span"]["mirror"], "default/cave", "{copied}");
    assert_eq!(copied["span"]["image"], gold.as_str(), "{copied}");
    let said = told
        .iter()
        .find(|line| line["fields"]["image"] == gold.as_str());
    assert!(said.unwrap()["fields"]["digest"].is_string(), "{said:?}");
    // The pages too: what is on them comes from the same state.
    let listening = told[0]["fields"]["message"].as_str().unwrap();
    let host = listening.rsplit('/').next().unwrap();
    for path in ["/", "/status.json", "/mirrors/default/cave", "/metrics"] {
        let body = e2e::http::get(&format!("http://{host}{path}")).body;
        let body = String::from_utf8_lossy(&body);
        assert!(
            !body.contains(PASSWORD) && !body.contains("token-1"),
            "{path}: {body}"
        );
    }
    process.signal("INT");
    // Secrets in what it wrote are looked for here, as at the end of every process.
    assert_eq!(process.wait(SOON), 0);
}

/// The lines of the log that tell of requests.
fn requests_in(log: &str) -> Vec<&str> {
    let tells = |line: &&str| line.contains("request answered") || line.contains("request failed");
    log.lines().filter(tells).collect()
}

#[test]
#[ignore = "needs the release binary; run by cargo xtask test"]
fn the_log_of_a_copy_tells_each_request_redirect_token_server_and_try() {
    let home = scratch();
    let (source, _) = private_mirror(home.path());
    let elsewhere = FaultServer::registry(&[]);
    let seed = json!({"path": "cave/gold", "tag": "1"});
    elsewhere.load(&seed);
    source.load(&seed);
    source.fault(&json!({
        "on": {"path": "/manifests/"}, "times": {"first": 1},
        "effect": {"status": {"status": 503}},
    }));
    source.fault(&json!({
        "on": {"path": "/blobs/"},
        "effect": {"redirect": {"to": format!("http://{}", elsewhere.host())}},
    }));
    let config = json!({"auths": {source.host(): {"username": "ali", "password": PASSWORD}}});
    let login = home.path().join("config.json");
    fs::write(&login, config.to_string()).unwrap();
    let copy = |tag: &str| {
        let mut command = coral();
        command.args(["copy", "--log", "debug"]);
        for host in [source.host(), elsewhere.host()] {
            command.args(["--plain-http", host]);
        }
        command.arg(format!("{}/cave/gold:{tag}", source.host()));
        command.arg(format!("oci:{}:1", home.path().join("out").display()));
        run(command.env("REGISTRY_AUTH_FILE", &login))
    };
    let log = copy("1").succeeded().stderr;
    let (host, told) = (source.host(), requests_in(&log));
    let has = |words: &[&str]| {
        told.iter()
            .any(|line| words.iter().all(|word| line.contains(word)))
    };
    let at = format!("host={host}");
    for words in [
        ["path=/v2/cave/gold/manifests/1", "status=503", "ms="],
        [
            "path=/v2/cave/gold/manifests/1",
            "status=200",
            "copy_attempt=2",
        ],
        ["path=/v2/cave/gold/manifests/1", "status=401", "attempt=1"],
        [
            "path=/v2/cave/gold/manifests/1",
            "status=200",
            "authorization=\"token\"",
        ],
        ["path=/token", "status=200", "authorization=\"basic\""],
        ["path=/v2/cave/gold/blobs/", "status=307", "method=GET"],
    ] {
        assert!(has(&[&words[..], &[&at]].concat()), "{words:?}: {log}");
    }
    let redirect = log.lines().find(|line| line.contains("redirect followed"));
    assert!(redirect.unwrap().contains(elsewhere.host()), "{log}");
    assert!(log.contains("token_server=http"), "{log}");
    let failed = copy("none").stderr;
    let (at, path) = (format!("host={host}"), "path=/v2/cave/gold/manifests/none");
    let mut told = requests_in(&failed).into_iter();
    assert!(
        told.any(|line| line.contains(&at) && line.contains(path) && line.contains("status=404")),
        "{failed}"
    );
}

#[test]
#[ignore = "needs the release binary; run by cargo xtask test"]
fn the_log_of_a_plan_tells_requests_also_to_a_registry_that_is_not_there() {
    let home = scratch();
    let (source, yaml) = private_mirror(home.path());
    let mut command = coral();
    command.args(["mirror", "plan"]).arg(yaml);
    command.args(["--log", "debug", "--plain-http", source.host()]);
    let log = run(command.env("HOME", home.path())).stderr;
    let failed =
        |line: &&str| line.contains("request failed") && line.contains("/cave/gold/manifests/1");
    assert!(requests_in(&log).iter().any(failed), "{log}");
}

#[test]
#[ignore = "needs the release binary; run by cargo xtask test"]
fn completions_and_man_pages_know_the_subcommands() {
    let home = scratch();
    for shell in ["bash", "zsh", "fish"] {
        let script = run(coral().args(["completions", shell])).succeeded();
        for word in ["registry", "mirror", "--plain-http", "--log-format"] {
            let word = if shell == "fish" {
                word.trim_start_matches("--")
            } else {
                word
            };
            assert!(script.stdout.contains(word), "{shell}: no {word}");
        }
    }
    let script = "source <(\"$0\" completions bash); COMP_WORDS=(coral mir); COMP_CWORD=1; \
                  _coral coral mir coral; echo \"${COMPREPLY[@]}\"";
    let mut bash = Command::new("bash");
    let completed = run(bash.args(["-c", script]).arg(coral().get_program())).succeeded();
    assert_eq!(completed.text(), "mirror");
    let _ = run(coral().arg("man").arg(home.path())).succeeded();
    let page = fs::read_to_string(home.path().join("coral-mirror-plan.1")).unwrap();
    assert!(
        page.contains(".TH") && page.contains("plain\\-http"),
        "{page}"
    );
}
