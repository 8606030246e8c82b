//! `coral up`: a registry and mirrors from YAML files, in one process.

mod mirrors;
mod own_image;
mod own_source;
mod status;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use coral_image::Host;
use coral_registry::Serving;
use coral_rt::shutdown_on_signal;

use crate::arguments::UpArguments;
use crate::failure::Failure;
use crate::load::{Loaded, Surroundings, load};
use crate::registry;
use crate::status_page::{self, Board, Site};
use crate::terminal::Terminal;
use mirrors::Mirrors;
use own_source::OwnSource;

/// How often the files are looked at for changes.
const LOOK_EVERY: Duration = Duration::from_secs(1);

pub(crate) async fn run(arguments: UpArguments, terminal: &Terminal) -> Result<ExitCode, Failure> {
    // The files first: a typo is told before a port is taken or a folder made.
    let provisional = surroundings(&arguments, arguments.listen)?;
    load(&arguments.files, &provisional)?.flawless()?;
    let stop = shutdown_on_signal()
        .map_err(|error| Failure::failed("signals cannot be handled", &error))?;
    let data = data_folder(arguments.data.as_deref())?;
    let listener = registry::listen(arguments.listen, "--listen").await?;
    let address = registry::local_address(&listener)?;
    let serving = Serving::default();
    let mut opened = registry::open(&data.join("registry"), None).await?;
    let board = Board::default();
    let site = Site::new(address, &serving.tls, board.clone())?;
    opened.router = status_page::beside(opened.router, site);
    let serving = tokio::spawn(registry::serve_until(
        listener,
        opened,
        serving,
        stop.clone(),
    ));
    terminal.line(&format!("registry listening on http://{address}"));
    terminal.line(&format!("status page at http://{}/", host_of(address)?));

    let surroundings = surroundings(&arguments, address)?;
    let mut own = OwnSource::new(arguments.own, data.join("own"), stop.clone());
    let mut mirrors = Mirrors::start(
        &arguments.client,
        &surroundings.embedded,
        own.host()?,
        board,
        terminal,
    );
    let mut seen = Seen::default();
    while !stop.is_cancelled() {
        if seen.changed(&arguments.files) {
            follow(&arguments, &surroundings, &mut own, &mut mirrors, terminal).await;
        }
        mirrors.tell(terminal, &data);
        tokio::select! {
            () = stop.cancelled() => {}
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
    }
    terminal.line("stopping; what is mirrored stays, and a cut copy goes on at the next start");
    mirrors.stop().await;
    match serving.await {
        Ok(result) => result.map(|()| ExitCode::SUCCESS),
        Err(error) => Err(Failure::failed("the registry ended", &error)),
    }
}

/// Takes in what the files say now. The mirrors of a file with a mistake in it stay as they were.
async fn follow(
    arguments: &UpArguments,
    surroundings: &Surroundings,
    own: &mut OwnSource,
    mirrors: &mut Mirrors,
    terminal: &Terminal,
) {
    let result = async {
        let loaded = load(&arguments.files, surroundings)?;
        loaded
            .problems
            .iter()
            .for_each(|problem| terminal.line(&format!("error: {problem}")));
        loaded
            .warnings
            .iter()
            .for_each(|warning| terminal.line(&format!("warning: {warning}")));
        for file in &loaded.broken {
            terminal.line(&format!(
                "{file}: its mirrors stay as they were until it is mended"
            ));
        }
        if loaded.mirrors.is_empty() && loaded.broken.is_empty() {
            terminal.line("warning: no RegistryMirror in the files: nothing is mirrored");
        }
        if names_host(&loaded, &own.host()?) {
            own.ensure_running(terminal).await?;
        }
        mirrors.apply(loaded.mirrors, &loaded.broken)
    };
    if let Err(failure) = result.await {
        failure
            .lines()
            .for_each(|line| terminal.line(&format!("error: {line}")));
        terminal.line("the files are not followed until this is mended");
    }
}

fn names_host(loaded: &Loaded, host: &Host) -> bool {
    let mut repositories = loaded.mirrors.iter().flat_map(|m| &m.settings.repositories);
    repositories.any(|settings| settings.repository.host() == host)
}

fn surroundings(arguments: &UpArguments, address: SocketAddr) -> Result<Surroundings, Failure> {
    Ok(Surroundings {
        embedded: host_of(address)?,
        user_credentials: arguments.client.user_credentials()?,
    })
}

/// The host by which this machine reaches an address it listens on.
pub(crate) fn host_of(mut address: SocketAddr) -> Result<Host, Failure> {
    if address.ip().is_unspecified() {
        address.set_ip(match address.ip() {
            IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        });
    }
    if address.port() == 0 {
        // Not bound yet; the name only stands in for the one to come.
        address.set_port(1);
    }
    Host::parse(&address.to_string()).map_err(Failure::input)
}

fn data_folder(given: Option<&Path>) -> Result<PathBuf, Failure> {
    if let Some(folder) = given {
        return Ok(folder.to_owned());
    }
    let from = |name: &str| {
        std::env::var_os(name)
            .filter(|v| !v.is_empty())
            .map(PathBuf::from)
    };
    let base = from("XDG_DATA_HOME").or_else(|| from("HOME").map(|home| home.join(".local/share")));
    base.map(|base| base.join("coral")).ok_or_else(|| {
        Failure::input("there is no home folder for the content: give one with --data")
    })
}

/// What the files looked like when they were last read.
#[derive(Default)]
struct Seen(Option<Vec<(PathBuf, Option<std::time::SystemTime>, u64)>>);

impl Seen {
    /// Whether anything is different from the last call. The first call is a change.
    fn changed(&mut self, paths: &[PathBuf]) -> bool {
        let files = crate::load::files(paths).unwrap_or_default();
        let look = |file: PathBuf| {
            let metadata = std::fs::metadata(&file).ok();
            let modified = metadata.as_ref().and_then(|m| m.modified().ok());
            (file, modified, metadata.map_or(0, |m| m.len()))
        };
        let now = Some(files.into_iter().map(look).collect());
        let changed = self.0 != now;
        self.0 = now;
        changed
    }
}
