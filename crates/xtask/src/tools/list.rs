//! The tools and their versions. The versions are part of the folder names in the cache, so a new
//! version is a new folder and never a stale binary.

use std::path::{Path, PathBuf};

/// A tool that is built from its published source.
pub(crate) struct Tool {
    /// Name of its folder in the cache, without the version.
    pub(crate) name: &'static str,
    /// The program it provides.
    pub(crate) program: &'static str,
    pub(crate) version: &'static str,
    pub(crate) origin: Origin,
}

/// Where a tool's source is published.
pub(crate) enum Origin {
    /// A package of a Go module, for `go install PACKAGE@VERSION`.
    Go(&'static str),
    /// A crate, for `cargo install`.
    Crate(&'static str),
    /// A crate without its default features: they are not used, and take minutes to build.
    BareCrate(&'static str),
}

impl Tool {
    pub(crate) fn folder(&self, cache: &Path) -> PathBuf {
        cache
            .join("tools")
            .join(format!("{}-{}", self.name, self.version))
    }

    pub(crate) fn is_in(&self, cache: &Path) -> bool {
        self.folder(cache).join("bin").join(self.program).is_file()
    }

    pub(crate) fn is_go(&self) -> bool {
        matches!(self.origin, Origin::Go(_))
    }

    pub(crate) fn source(&self) -> &'static str {
        match self.origin {
            Origin::Go(package) => package,
            Origin::Crate(name) | Origin::BareCrate(name) => name,
        }
    }
}

/// Debian packages, each with a program by which its presence is seen.
pub(crate) const DEBIAN: &[(&str, &str)] = &[
    ("apache2-utils", "htpasswd"),
    ("buildah", "buildah"),
    ("busybox-static", "busybox"),
    ("chromium", "chromium"),
    ("conntrack", "conntrack"),
    ("containerd", "containerd"),
    // Network plugins of the cluster's nodes.
    ("containernetworking-plugins", "/usr/lib/cni/ptp"),
    ("curl", "curl"),
    ("debootstrap", "debootstrap"),
    // Its service is not used: tests start the program themselves.
    ("docker-registry", "docker-registry"),
    ("ethtool", "ethtool"),
    // The fuzzer's runtime is C++.
    ("g++", "g++"),
    ("git", "git"),
    ("iproute2", "ip"),
    ("iptables", "iptables"),
    ("jq", "jq"),
    // What the cluster's runc is built with.
    ("libseccomp-dev", "/usr/include/seccomp.h"),
    ("nftables", "nft"),
    // Its service is not used: tests start the program themselves.
    ("openssh-server", "/usr/sbin/sshd"),
    ("openssl", "openssl"),
    ("pkg-config", "pkg-config"),
    // What the pictures of the documentation are written with.
    (
        "fonts-dejavu-core",
        "/usr/share/fonts/truetype/dejavu/DejaVuSans.ttf",
    ),
    ("runc", "runc"),
    ("skopeo", "skopeo"),
    ("strace", "strace"),
    ("tmux", "tmux"),
    ("umoci", "umoci"),
    // `unshare`, `nsenter` and `setsid`, of which the cluster's nodes are made.
    ("util-linux", "nsenter"),
    ("wrk", "wrk"),
];

/// The oldest Go that builds every tool below (the `go` line of their modules).
pub(crate) const OLDEST_GO: (u32, u32) = (1, 26);

pub(crate) const GO_TOOLS: &[Tool] = &[
    Tool {
        name: "actionlint",
        program: "actionlint",
        version: "v1.7.12",
        origin: Origin::Go("github.com/rhysd/actionlint/cmd/actionlint"),
    },
    Tool {
        name: "conformance",
        program: "conformance",
        version: "v0.0.0-20260831232431-97274622c111",
        origin: Origin::Go("github.com/opencontainers/distribution-spec/conformance"),
    },
    Tool {
        name: "crane",
        program: "crane",
        version: "v0.22.1",
        origin: Origin::Go("github.com/google/go-containerregistry/cmd/crane"),
    },
    Tool {
        name: "distribution",
        program: "registry",
        version: "v3.1.2",
        origin: Origin::Go("github.com/distribution/distribution/v3/cmd/registry"),
    },
    Tool {
        name: "regctl",
        program: "regctl",
        version: "v0.11.7",
        origin: Origin::Go("github.com/regclient/regclient/cmd/regctl"),
    },
    Tool {
        name: "regsync",
        program: "regsync",
        version: "v0.11.7",
        origin: Origin::Go("github.com/regclient/regclient/cmd/regsync"),
    },
];

pub(crate) const CARGO_TOOLS: &[Tool] = &[
    Tool {
        name: "cargo-deny",
        program: "cargo-deny",
        version: "v0.20.2",
        origin: Origin::Crate("cargo-deny"),
    },
    Tool {
        name: "cargo-fuzz",
        program: "cargo-fuzz",
        version: "v0.13.1",
        origin: Origin::Crate("cargo-fuzz"),
    },
    Tool {
        name: "mdbook",
        program: "mdbook",
        version: "v0.5.4",
        origin: Origin::BareCrate("mdbook"),
    },
];
