//! `coral doctor`: checks everything that the mirrors of some files depend on, and reports for each
//! part whether it works, and what to do if it does not.
//!
//! `registries` lists what to check, the checks run here, and `verdict`, which is pure, decides what a
//! result means.

mod finding;
mod registries;
mod verdict;
mod wanted;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use coral_mirror::Clients;
use futures::{StreamExt, stream};
use jiff::Timestamp;

use crate::failure::Failure;
use crate::mirror::{MirrorArguments, client_options, plain_hosts, read_files};
use crate::terminal::Terminal;
use crate::values::Output;
use finding::{Finding, Level};
use registries::{CheckedRegistry, Role, registries};
use verdict::DiskSpace;

/// How many registries are checked at the same time.
const AT_ONCE: usize = 8;

#[derive(Debug, Args)]
pub(crate) struct DoctorArguments {
    /// Data folder of `coral up`, whose disk is checked [default: ~/.local/share/coral]
    #[arg(long, env = "CORAL_DATA", value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) mirrors: MirrorArguments,
}

pub(crate) async fn run(
    arguments: DoctorArguments,
    terminal: &Terminal,
) -> Result<ExitCode, Failure> {
    let DoctorArguments { mirrors, data } = arguments;
    let loaded = read_files(&mirrors, terminal)?;
    let plain = plain_hosts(&mirrors, &loaded)?;
    let clients = Clients::new(client_options(&mirrors.client, &plain)?);
    let registries = registries(&loaded.mirrors, &clients, &mirrors.registry)?;
    let looks = stream::iter(registries).map(check).buffered(AT_ONCE);
    let mut findings: Vec<Finding> = looks.concat().await;
    if loaded
        .mirrors
        .iter()
        .any(|m| m.prepared.destination == mirrors.registry)
    {
        findings.push(disk(&crate::up::data_folder(data.as_deref())?));
    }
    match mirrors.output {
        Output::Table => finding::print_table(&findings),
        Output::Json => finding::print_json(&findings),
    }
    let failed = findings.iter().any(|finding| finding.level == Level::Fail);
    Ok(ExitCode::from(u8::from(failed)))
}

/// All findings about one registry, in the order of the steps by which it is reached.
async fn check(site: CheckedRegistry) -> Vec<Finding> {
    let place = site.place();
    let probe = match site.client.probe(&site.host, &site.credentials).await {
        Ok(probe) => probe,
        Err(error) => return vec![verdict::of_error(&place, "options", &error)],
    };
    let mut findings = verdict::of_probe(&place, site.role, &probe, Timestamp::now());
    if probe.answer.as_ref().is_some_and(Result::is_ok) {
        findings.extend(wanted::check(&site, &place).await);
        if site.role != Role::Source {
            let room = site.client.room(&site.host, &site.credentials).await;
            findings.extend(
                room.ok()
                    .flatten()
                    .map(|room| verdict::of_room(&place, room)),
            );
        }
        let limit = *site.client.rate_limit(&site.host).borrow();
        findings.extend(limit.map(|limit| verdict::of_rate_limit(&place, &limit)));
    }
    findings
}

fn disk(folder: &Path) -> Finding {
    let place = folder.display().to_string();
    let there = nearest(folder);
    match rustix::fs::statvfs(&there) {
        Ok(stat) => {
            let space = DiskSpace {
                free: stat.f_bavail.saturating_mul(stat.f_frsize),
                total: stat.f_blocks.saturating_mul(stat.f_frsize),
            };
            verdict::of_space(&place, space)
        }
        Err(error) => Finding::fail(
            &place,
            "disk",
            error.to_string(),
            "make the folder readable, or name another one with --data",
        ),
    }
}

/// The folder itself, or its closest parent that exists.
fn nearest(folder: &Path) -> PathBuf {
    let absolute = std::path::absolute(folder).unwrap_or_else(|_| folder.to_owned());
    let mut there = absolute.ancestors().filter(|folder| folder.exists());
    there.next().unwrap_or(Path::new("/")).to_owned()
}
