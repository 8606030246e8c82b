//! The registries that a registry of Coral is filled from, as flags.

use std::net::SocketAddr;

use clap::Args;
use coral_distribution::Credentials;
use coral_image::Host;
use coral_registry::{PullThrough, Registry};

use crate::client::ClientArguments;
use crate::failure::Failure;
use crate::terminal::Terminal;
use crate::values::host;

#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Pull-through")]
pub(crate) struct PullThroughArguments {
    /// Fetch an image of this registry, such as `docker.io`, when a client asks for it and it is
    /// missing here: as `docker.io/library/alpine`, where a mirror would put it. Everything that was
    /// fetched stays
    #[arg(long, env = "CORAL_PULL_THROUGH", value_name = "HOST[:PORT]", value_parser = host, value_delimiter = ',')]
    pull_through: Vec<Host>,
    /// Use the stored Docker logins for `--pull-through`: every client that may read here can then
    /// read what these logins can read [default: images are fetched anonymously]
    #[arg(long, env = "CORAL_PULL_THROUGH_LOGIN", requires = "pull_through")]
    pull_through_login: bool,
}

impl PullThroughArguments {
    /// Whether any registry is pulled through.
    pub(crate) fn is_wanted(&self) -> bool {
        !self.pull_through.is_empty()
    }

    /// Lets the registry fetch what is missing, if that is wanted. `names` are the registry's own.
    pub(crate) fn apply(
        &self,
        registry: &Registry,
        client: &ClientArguments,
        (address, names): (SocketAddr, &[Host]),
        terminal: &Terminal,
    ) -> Result<(), Failure> {
        if !self.is_wanted() {
            return Ok(());
        }
        let is_own = |host: &&Host| is_own(host, address, names);
        if let Some(own) = self.pull_through.iter().find(is_own) {
            return Err(Failure::input(format!(
                "--pull-through {own}: this is the registry itself; name the registry to fetch from"
            )));
        }
        let credentials = if self.pull_through_login {
            client.user_credentials()?
        } else {
            Credentials::none().into()
        };
        let made = client.client(client.host_options()?)?;
        let from = PullThrough::new(made, credentials, self.pull_through.clone());
        let how = if self.pull_through_login {
            "with the stored logins"
        } else {
            "anonymously"
        };
        terminal.line(&format!("missing images are fetched from {from}, {how}"));
        if self.pull_through_login && !registry.has_users() {
            terminal.line(&format!(
                "warning: every client that reaches {address} can pull what the stored logins can \
                 read: configure users and their rights"
            ));
        }
        registry.pull_through(from);
        Ok(())
    }
}

fn is_own(host: &Host, address: SocketAddr, names: &[Host]) -> bool {
    let is_unspecified = matches!(host.name(), "0.0.0.0" | "[::]");
    let is_here = (host.is_loopback() || is_unspecified) && host.port() == Some(address.port());
    is_here || names.contains(host) || host.as_str() == address.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_registry_is_not_filled_from_itself() {
        let parse = |text: &str| Host::parse(text).unwrap();
        let names = [parse("registry.corp:5000")];
        for (address, host, own) in [
            ("127.0.0.1:5000", "localhost:5000", true),
            ("0.0.0.0:5000", "127.0.0.1:5000", true),
            ("0.0.0.0:5000", "0.0.0.0:5000", true),
            ("127.0.0.1:5000", "[::]:5000", true),
            ("127.0.0.1:5000", "localhost:5001", false),
            ("127.0.0.1:5000", "registry.corp:5000", true),
            ("192.0.2.7:5000", "192.0.2.7:5000", true),
            ("192.0.2.7:5000", "192.0.2.8:5000", false),
            ("127.0.0.1:5000", "docker.io", false),
        ] {
            let found = is_own(&parse(host), address.parse().unwrap(), &names);
            assert_eq!(found, own, "{host} at {address}");
        }
    }
}
