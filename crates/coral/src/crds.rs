//! `coral crds`: the CRDs that a cluster needs before Coral's objects.

use std::io::Write;
use std::process::ExitCode;

use clap::Args;
use clap::builder::PossibleValuesParser;
use coral_api::crds;
use coral_api::names::kind;

use crate::failure::Failure;

/// The kinds with a CRD.
const KINDS: [&str; 8] = [
    kind::IMAGE,
    kind::IMAGE_BUILD,
    kind::INJECTION_POLICY,
    kind::MIRRORED_IMAGES,
    kind::NODE_IMAGES,
    kind::REGISTRY,
    kind::REGISTRY_MIRROR,
    kind::REGISTRY_ROUTE,
];

#[derive(Debug, Args)]
pub(crate) struct CrdsArguments {
    /// Print only the CRD of this kind; may be repeated
    #[arg(long, value_name = "KIND", value_parser = PossibleValuesParser::new(KINDS))]
    kind: Vec<String>,
}

/// Prints the definitions as YAML.
pub(crate) fn print(arguments: &CrdsArguments) -> Result<ExitCode, Failure> {
    let mut found = crds::crds();
    if !arguments.kind.is_empty() {
        found.retain(|crd| arguments.kind.contains(&crd.spec.names.kind));
    }
    let text = crds::to_yaml(&found).map_err(|error| Failure::failed("a definition", &error))?;
    // A reader that closed the pipe early wanted no more.
    let _ = std::io::stdout().lock().write_all(text.as_bytes());
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_definition_can_be_asked_for_by_its_kind() {
        let kinds: Vec<String> = crds::crds()
            .into_iter()
            .map(|c| c.spec.names.kind)
            .collect();
        assert_eq!(kinds, KINDS);
    }
}
