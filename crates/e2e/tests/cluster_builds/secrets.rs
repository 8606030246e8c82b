//! A build that searches for secrets that it must not have.

use e2e::GitServer;
use e2e::cluster::{Builds, Cluster, PUBLISHER};

use super::{GIT_USER, git_secret, published};

/// Looks for tokens, the passwords of the other steps, their processes, and the metadata address.
/// What it looks for is put together from halves, so that it does not find itself.
const LOOK: &str = r#"
found() { echo "found: $*"; lost=yes; }
lost=
token="eyJhb""GciOi"
for path in $(find / \( -path /proc -o -path /sys -o -path /dev \) -prune -o -type f -print); do
  grep -q -e "$token" -e "GIT_A""GIT_B" -e "OUT_A""OUT_B" "$path" 2>/dev/null && found "$path"
done
for process in /proc/[0-9]*; do
  for file in environ cmdline; do
    tr '\0' '\n' <$process/$file 2>/dev/null | grep -q -e "$token" -e "GIT_A""GIT_B" \
      -e "OUT_A""OUT_B" -e build-"step" && found $process/$file
  done
  [ "$(ls $process/root/coral-build 2>/dev/null | grep -c -e git -e token -e credentials)" = 0 ] ||
    found $process/root
done
env | grep -q -i -e token -e secret -e password && found the environment
grep -q -e io~"secret" -e io~"projected" -e serviceaccount /proc/self/mountinfo && found a mount
[ ! -e /var/run/secrets ] || found /var/run/secrets
timeout 3 nc -w 2 169.254.169.254 80 </dev/null && found the metadata address
[ -z "$lost" ] || exit 9
echo found nothing
"#;

fn halves(script: &str, names: [&str; 2], password: &str) -> String {
    let (first, second) = password.split_at(password.len() / 2);
    script.replace(names[0], first).replace(names[1], second)
}

#[test]
#[ignore = "needs a cluster"]
fn a_build_that_looks_for_a_secret_finds_none() {
    let cluster = Cluster::connect();
    let Some(own) = cluster.own() else { return };
    let builds = Builds::set(&cluster, own);
    let look = halves(LOOK, ["GIT_A", "GIT_B"], GIT_USER.password);
    let look = halves(&look, ["OUT_A", "OUT_B"], PUBLISHER.password);
    let server = GitServer::start(own.address(), GIT_USER);
    let script = format!("{look}\n{}", builds.small_image());
    server.commit(&[("build.sh", script.as_bytes())]);
    let (also_to, secret) = published(&builds, "acme/look");
    builds.apply(&(secret + &git_secret("git", GIT_USER.password)));
    let source = format!(
        "{{git: {{url: \"{}\", secretRef: {{name: git}}}}}}",
        server.url()
    );
    builds.apply(&builds.yaml("look", &source, &builds.shell(""), &also_to, ""));
    builds.succeeded("look");
    let pods = builds.pods("look");
    let pod = pods[0]["metadata"]["name"].as_str().unwrap();
    let log = ["-n", builds.namespace(), "logs", pod, "-c", "build"];
    let log = cluster.kubectl(&log).succeeded();
    assert!(log.stdout.contains("found nothing"), "{log}");
    assert_eq!(pods[0]["spec"]["hostUsers"], false);
}
