//! Git's own HTTP server: `git http-backend` behind a few lines of HTTP.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

/// A repository `shop.git` that is served over HTTP.
pub(crate) struct GitServer {
    folder: tempfile::TempDir,
    address: SocketAddr,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    /// The value of the header `Authorization` that is asked for.
    authorization: Option<String>,
    /// Statuses of the next answers, in place of git's.
    failures: Vec<u16>,
    /// Bytes that were sent.
    sent: usize,
}

impl GitServer {
    /// A server with an empty repository.
    pub(crate) fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::<Mutex<State>>::default();
        let (root, shared) = (folder.path().to_owned(), Arc::clone(&state));
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (root, shared) = (root.clone(), Arc::clone(&shared));
                std::thread::spawn(move || answer(stream, &root, &shared));
            }
        });
        let server = Self {
            folder,
            address,
            state,
        };
        server.git(&["init", "-q", "-b", "main", "."]);
        server
    }

    /// The repository's URL.
    pub(crate) fn url(&self) -> String {
        format!("http://{}/shop.git", self.address)
    }

    /// The folder of all repositories.
    pub(crate) fn root(&self) -> &Path {
        self.folder.path()
    }

    /// The folder that commits are made in.
    pub(crate) fn work(&self) -> PathBuf {
        self.folder.path().join("shop.git")
    }

    /// Writes a file, which the next commit takes in.
    pub(crate) fn write(&self, name: &str, content: &[u8]) {
        let path = self.work().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }

    /// Commits all files; the commit.
    pub(crate) fn commit(&self) -> String {
        self.git(&["add", "-A"]);
        self.git(&["commit", "-q", "-m", "a commit"]);
        self.git(&["rev-parse", "HEAD"])
    }

    /// Runs git in the repository; what it printed.
    pub(crate) fn git(&self, arguments: &[&str]) -> String {
        std::fs::create_dir_all(self.work()).unwrap();
        run(&self.work(), arguments)
    }

    /// Commits files to another repository of the server; the commit.
    pub(crate) fn other(&self, name: &str, files: &[(&str, &[u8])]) -> String {
        self.other_with(name, files, "")
    }

    /// Commits files to another repository, and an entry of its index as `git update-index` has it.
    pub(crate) fn other_with(&self, name: &str, files: &[(&str, &[u8])], entry: &str) -> String {
        let folder = self.folder.path().join(name);
        std::fs::create_dir_all(&folder).unwrap();
        run(&folder, &["init", "-q", "-b", "main", "."]);
        for (file, content) in files {
            std::fs::write(folder.join(file), content).unwrap();
        }
        if let Some(path) = entry.rsplit(',').next().filter(|path| !path.is_empty()) {
            std::fs::create_dir_all(folder.join(path)).unwrap();
            run(&folder, &["update-index", "--add", "--cacheinfo", entry]);
        }
        run(&folder, &["add", "-A"]);
        run(&folder, &["commit", "-q", "-m", "a commit"]);
        run(&folder, &["rev-parse", "HEAD"])
    }

    /// Asks for this value of the header `Authorization`.
    pub(crate) fn demand(&self, authorization: &str) {
        self.state.lock().unwrap().authorization = Some(authorization.to_owned());
    }

    /// Answers the next requests with these statuses.
    pub(crate) fn fail_with(&self, statuses: &[u16]) {
        self.state.lock().unwrap().failures = statuses.to_vec();
    }

    /// Bytes of all answers.
    pub(crate) fn sent(&self) -> usize {
        self.state.lock().unwrap().sent
    }
}

fn run(folder: &Path, arguments: &[&str]) -> String {
    let output = git(folder).args(arguments).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "git {arguments:?}: {error}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// Git without the settings of this machine.
fn git(folder: &Path) -> Command {
    let mut git = Command::new("git");
    git.current_dir(folder)
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_CONFIG_SYSTEM", "/dev/null")
        .env("HOME", folder);
    for who in ["AUTHOR", "COMMITTER"] {
        git.env(format!("GIT_{who}_NAME"), "test")
            .env(format!("GIT_{who}_EMAIL"), "test@example.com");
    }
    git
}

/// What was asked, as far as git wants to know.
#[derive(Default)]
struct Request {
    method: String,
    target: String,
    content_type: String,
    protocol: String,
    authorization: String,
    body: Vec<u8>,
}

fn read(stream: &TcpStream) -> Option<Request> {
    let mut lines = BufReader::new(stream);
    let mut line = String::new();
    lines.read_line(&mut line).ok()?;
    let mut words = line.split(' ');
    let mut request = Request {
        method: words.next()?.to_owned(),
        target: words.next()?.to_owned(),
        ..Request::default()
    };
    let mut length = 0;
    loop {
        let mut line = String::new();
        lines.read_line(&mut line).ok()?;
        let Some((name, value)) = line.split_once(':') else {
            break;
        };
        let value = value.trim().to_owned();
        match name.to_ascii_lowercase().as_str() {
            "content-type" => request.content_type = value,
            "content-length" => length = value.parse().ok()?,
            "git-protocol" => request.protocol = value,
            "authorization" => request.authorization = value,
            _ => {}
        }
    }
    request.body = vec![0; length];
    lines.read_exact(&mut request.body).ok()?;
    Some(request)
}

fn answer(mut stream: TcpStream, root: &Path, state: &Mutex<State>) {
    let Some(request) = read(&stream) else { return };
    let answer = {
        let mut state = state.lock().unwrap();
        let demanded = state.authorization.clone();
        if !state.failures.is_empty() {
            refusal(state.failures.remove(0))
        } else if demanded.is_some_and(|wanted| wanted != request.authorization) {
            refusal(401)
        } else {
            drop(state);
            backend(root, &request)
        }
    };
    state.lock().unwrap().sent += answer.len();
    // A client that went away wants no answer.
    let _ = stream.write_all(&answer);
}

fn refusal(status: u16) -> Vec<u8> {
    format!("HTTP/1.1 {status} X\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").into_bytes()
}

/// Git's answer as that of an HTTP server.
fn backend(root: &Path, request: &Request) -> Vec<u8> {
    let (path, query) = request
        .target
        .split_once('?')
        .unwrap_or((&request.target, ""));
    let mut child = git(root)
        .arg("http-backend")
        .env("GIT_PROJECT_ROOT", root)
        .env("GIT_HTTP_EXPORT_ALL", "1")
        .env("PATH_INFO", path)
        .env("QUERY_STRING", query)
        .env("REQUEST_METHOD", &request.method)
        .env("CONTENT_TYPE", &request.content_type)
        .env("CONTENT_LENGTH", request.body.len().to_string())
        .env("GIT_PROTOCOL", &request.protocol)
        .env("REMOTE_ADDR", "127.0.0.1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(&request.body)
        .unwrap();
    let output = child.wait_with_output().unwrap().stdout;
    let end = output
        .windows(4)
        .position(|bytes| bytes == b"\r\n\r\n")
        .unwrap();
    let (head, body) = (String::from_utf8_lossy(&output[..end]), &output[end + 4..]);
    let status = head.lines().find_map(|line| line.strip_prefix("Status: "));
    let mut answer = format!(
        "HTTP/1.1 {}\r\n{head}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        status.unwrap_or("200 OK"),
        body.len()
    )
    .into_bytes();
    answer.extend_from_slice(body);
    answer
}
