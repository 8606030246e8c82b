//! Certificates of an authority of the test's own, made by openssl.

#![allow(dead_code, reason = "each test binary has its own use of certificates")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use e2e::run;

/// An authority, and the files that a registry reads.
pub(crate) struct Certificates {
    folder: PathBuf,
}

impl Certificates {
    /// An authority and a first certificate, in a new folder.
    pub(crate) fn new(folder: &Path) -> Self {
        let folder = folder.join("tls");
        fs::create_dir(&folder).expect("scratch is writable");
        let made = Self { folder };
        let subject = ["-subj", "/CN=test authority", "-days", "2"];
        let mut command = Command::new("openssl");
        command.args(["req", "-x509", "-newkey", "ec", "-nodes"]);
        command.args(["-pkeyopt", "ec_paramgen_curve:prime256v1"]);
        command.args([
            "-keyout",
            &made.path("ca.key"),
            "-out",
            &made.path("ca.pem"),
        ]);
        let _ = run(command.args(subject)).succeeded();
        made.renew("first");
        made
    }

    /// The authority's certificate.
    pub(crate) fn ca(&self) -> String {
        self.path("ca.pem")
    }

    pub(crate) fn certificate(&self) -> String {
        self.path("tls.crt")
    }

    pub(crate) fn key(&self) -> String {
        self.path("tls.key")
    }

    /// Replaces certificate and key, one after the other as every tool does. `name` is in the
    /// certificate's subject.
    pub(crate) fn renew(&self, name: &str) {
        self.issue(name, "2");
    }

    /// Replaces them by some that were valid until yesterday.
    pub(crate) fn expire(&self) {
        self.issue("old", "-1");
    }

    fn issue(&self, name: &str, days: &str) {
        let (key, request) = (self.path("new.key"), self.path("new.csr"));
        let mut command = Command::new("openssl");
        command.args(["req", "-newkey", "ec", "-nodes"]);
        command.args(["-pkeyopt", "ec_paramgen_curve:prime256v1"]);
        command.args(["-subj", &format!("/CN={name}")]);
        let _ = run(command.args(["-keyout", &key, "-out", &request])).succeeded();
        let names = self.path("names");
        fs::write(&names, "subjectAltName=DNS:localhost,IP:127.0.0.1\n").expect("writable");
        let certificate = self.path("new.crt");
        let mut command = Command::new("openssl");
        command.args(["x509", "-req", "-in", &request, "-extfile", &names]);
        command.args(["-CA", &self.ca(), "-CAkey", &self.path("ca.key")]);
        command.args(["-CAcreateserial", "-days", days, "-out", &certificate]);
        let _ = run(&mut command).succeeded();
        fs::rename(certificate, self.certificate()).expect("scratch is writable");
        fs::rename(key, self.key()).expect("scratch is writable");
    }

    fn path(&self, name: &str) -> String {
        self.folder.join(name).display().to_string()
    }
}

/// The name in the certificate that a server shows now.
pub(crate) fn shown_by(address: &str) -> String {
    let script = "openssl s_client -connect \"$0\" </dev/null 2>/dev/null \
                  | openssl x509 -noout -subject";
    let finished = run(Command::new("sh").args(["-c", script, address]));
    finished
        .text()
        .rsplit("CN = ")
        .next()
        .unwrap_or_default()
        .to_owned()
}
