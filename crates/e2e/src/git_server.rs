//! A git repository behind `git http-backend`, for those who know the password.

use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tempfile::TempDir;

use crate::registry::User;
use crate::run::{run, scratch};

/// Bytes that a request may have.
const LONGEST: u64 = 1 << 20;

/// A server of one repository, on plain HTTP. It ends with the process of the tests.
pub struct GitServer {
    host: String,
    folder: TempDir,
    statuses: Arc<Mutex<Vec<u16>>>,
}

impl GitServer {
    /// Serves an empty repository, on a free port of an address.
    ///
    /// # Panics
    /// If there is no such address.
    pub fn start(address: &str, user: User) -> Self {
        crate::secrets::password(user.name, user.password);
        let folder = scratch();
        let bare = folder.path().join("app.git");
        let work = folder.path().join("work");
        let bare_folder = bare.to_string_lossy();
        git(
            folder.path(),
            &[
                "init",
                "--quiet",
                "--bare",
                "--initial-branch=main",
                &bare_folder,
            ],
        );
        git(
            folder.path(),
            &["init", "--quiet", "--initial-branch=main", "work"],
        );
        git(&work, &["remote", "add", "origin", &bare_folder]);
        let listener = TcpListener::bind((address, 0)).expect("an address of this machine");
        let host = listener.local_addr().expect("it is bound").to_string();
        let expected = STANDARD.encode(format!("{}:{}", user.name, user.password));
        let statuses = Arc::new(Mutex::new(Vec::new()));
        let (root, told) = (folder.path().to_path_buf(), Arc::clone(&statuses));
        thread::spawn(move || serve(&listener, &root, &format!("Basic {expected}"), &told));
        Self {
            host,
            folder,
            statuses,
        }
    }

    /// The URL of the repository.
    pub fn url(&self) -> String {
        format!("http://{}/app.git", self.host)
    }

    /// The folder of the bare repository `app.git`.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Commits files (path and content) to `main`; returns the commit.
    ///
    /// # Panics
    /// If a file cannot be written.
    pub fn commit(&self, files: &[(&str, &[u8])]) -> String {
        let work = self.folder.path().join("work");
        for (path, content) in files {
            let file = work.join(path);
            fs::create_dir_all(file.parent().expect("it lies in a folder"))
                .expect("scratch is writable");
            fs::write(file, content).expect("scratch is writable");
        }
        git(&work, &["add", "--all"]);
        git(&work, &["commit", "--quiet", "--message=test"]);
        git(&work, &["push", "--quiet", "origin", "main"]);
        git(&work, &["rev-parse", "HEAD"])
    }

    /// The statuses of all answers so far.
    pub fn statuses(&self) -> Vec<u16> {
        let statuses = self.statuses.lock();
        statuses.unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn git(folder: &Path, arguments: &[&str]) -> String {
    let mut git = Command::new("git");
    git.args(["-c", "user.name=test", "-c", "user.email=test@example.org"]);
    git.env("GIT_CONFIG_GLOBAL", "/dev/null");
    let finished = run(git.args(arguments).current_dir(folder)).succeeded();
    finished.text().to_owned()
}

fn serve(listener: &TcpListener, root: &Path, expected: &str, statuses: &Arc<Mutex<Vec<u16>>>) {
    for stream in listener.incoming().flatten() {
        let (root, expected) = (root.to_path_buf(), expected.to_owned());
        let statuses = Arc::clone(statuses);
        thread::spawn(move || {
            // A client that disconnects early is not an error of the server.
            if let Ok(status) = answer(&stream, root, &expected) {
                let mut all = statuses.lock().unwrap_or_else(PoisonError::into_inner);
                all.push(status);
            }
        });
    }
}

/// Answers one request, and says with which status.
fn answer(mut stream: &TcpStream, root: PathBuf, expected: &str) -> io::Result<u16> {
    let mut reader = BufReader::new(stream);
    let request = Request::read(&mut reader)?;
    if request.header("authorization") != Some(expected) {
        let refused = "HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Basic realm=\"git\"\r\n\
                       Content-Length: 0\r\nConnection: close\r\n\r\n";
        stream.write_all(refused.as_bytes())?;
        return Ok(401);
    }
    let (head, body) = request.run_backend(root)?;
    let mut status = "200 OK".to_owned();
    let mut lines = String::new();
    for line in head.lines() {
        match line.split_once(": ") {
            Some(("Status", value)) => value.clone_into(&mut status),
            _ => lines = format!("{lines}{line}\r\n"),
        }
    }
    let length = body.len();
    let head = format!(
        "HTTP/1.1 {status}\r\n{lines}Content-Length: {length}\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(head.as_bytes())?;
    stream.write_all(&body)?;
    Ok(status[..3].parse().unwrap_or_default())
}

struct Request {
    method: String,
    path: String,
    query: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Request {
    fn read(reader: &mut impl BufRead) -> io::Result<Self> {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let mut words = line.split_whitespace().map(str::to_owned);
        let (method, target) = (words.next(), words.next());
        let target = target.unwrap_or_default();
        let (path, query) = target.split_once('?').unwrap_or((&target, ""));
        let mut request = Self {
            method: method.unwrap_or_default(),
            path: path.to_owned(),
            query: query.to_owned(),
            headers: Vec::new(),
            body: Vec::new(),
        };
        loop {
            let mut line = String::new();
            reader.read_line(&mut line)?;
            let Some((name, value)) = line.trim_end().split_once(": ") else {
                break;
            };
            let name = name.to_ascii_lowercase();
            request.headers.push((name, value.to_owned()));
        }
        if request.header("expect").is_some() {
            return Err(io::Error::other("Expect is not understood"));
        }
        request.body = request.read_body(reader)?;
        Ok(request)
    }

    fn read_body(&self, reader: &mut impl BufRead) -> io::Result<Vec<u8>> {
        let mut body = Vec::new();
        if self.header("transfer-encoding") != Some("chunked") {
            let length = self.header("content-length").and_then(|n| n.parse().ok());
            reader.take(length.unwrap_or(0)).read_to_end(&mut body)?;
            return Ok(body);
        }
        loop {
            let mut size = String::new();
            reader.read_line(&mut size)?;
            let size = u64::from_str_radix(size.trim(), 16).map_err(io::Error::other)?;
            reader.take(size.min(LONGEST)).read_to_end(&mut body)?;
            reader.read_line(&mut String::new())?;
            if size == 0 {
                return Ok(body);
            }
        }
    }

    fn header(&self, name: &str) -> Option<&str> {
        let mut headers = self.headers.iter();
        let found = headers.find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str())
    }

    /// Head and body of the answer of `git http-backend`.
    fn run_backend(&self, root: PathBuf) -> io::Result<(String, Vec<u8>)> {
        let mut backend = Command::new("git");
        backend.arg("http-backend").env("GIT_PROJECT_ROOT", root);
        backend.env("GIT_HTTP_EXPORT_ALL", "1");
        backend.env("REQUEST_METHOD", &self.method);
        backend.env("PATH_INFO", &self.path);
        backend.env("QUERY_STRING", &self.query);
        for (variable, header) in [
            ("CONTENT_TYPE", "content-type"),
            ("HTTP_CONTENT_ENCODING", "content-encoding"),
            ("GIT_PROTOCOL", "git-protocol"),
        ] {
            backend.env(variable, self.header(header).unwrap_or_default());
        }
        let mut child = backend
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        if let Some(mut input) = child.stdin.take() {
            input.write_all(&self.body)?;
        }
        let answer = child.wait_with_output()?.stdout;
        let end = answer.windows(4).position(|four| four == b"\r\n\r\n");
        let end = end.ok_or_else(|| io::Error::other("git http-backend answered nothing"))?;
        let head = String::from_utf8_lossy(&answer[..end]).replace('\r', "");
        Ok((head, answer[end + 4..].to_vec()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repository_is_cloned_by_those_who_know_the_password() {
        let user = User {
            name: "git",
            password: "a long password",
        };
        let server = GitServer::start("127.0.0.1", user);
        let commit = server.commit(&[("web/Dockerfile", b"FROM scratch\n")]);
        let folder = scratch();
        let clone = |url: &str| {
            let mut git = Command::new("git");
            git.args(["clone", "--quiet", "--depth=1", url, "clone"]);
            git.env("GIT_TERMINAL_PROMPT", "0").env_remove("http_proxy");
            run(git.current_dir(folder.path()))
        };
        assert_ne!(clone(&server.url()).code, 0);
        let with_user = server.url().replace("//", "//git:a%20long%20password@");
        let _ = clone(&with_user).succeeded();
        let head = git(&folder.path().join("clone"), &["rev-parse", "HEAD"]);
        assert_eq!(head, commit);
        assert!(folder.path().join("clone/web/Dockerfile").is_file());
        assert!(server.statuses().contains(&401));
    }
}
