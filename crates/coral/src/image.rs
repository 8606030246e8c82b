//! `coral image`: Coral's own container image, made from the running program.

use std::process::ExitCode;

use clap::Args;
use coral_image::{Tag, Version};

use crate::client::{ClientArguments, SETTLING};
use crate::copy::endpoint::CopyEndpoint;
use crate::failure::Failure;
use crate::own_image::{OwnImage, own_interpreter};
use crate::terminal::Terminal;

/// What `coral image` takes.
#[derive(Debug, Args)]
pub(crate) struct ImageArguments {
    // Not a doc comment: brackets would be links there.
    #[arg(
        value_name = "DST",
        help = "Where to write it: HOST/PATH[:TAG], oci:DIR[:TAG] or oci-archive:FILE.tar[:TAG], \
                where an existing file is replaced [default tag: latest]"
    )]
    destination: String,
    #[command(flatten)]
    client: ClientArguments,
}

/// Writes or pushes the image, and prints its name and digest.
pub(crate) async fn run(
    arguments: ImageArguments,
    _terminal: &Terminal,
) -> Result<ExitCode, Failure> {
    let place = CopyEndpoint::parse(&arguments.destination)?;
    if let Version::Digest(digest) = version(&place) {
        return Err(Failure::input(format!(
            "{}: the digest of an image follows from what is in it: give a tag instead of {digest}",
            arguments.destination
        )));
    }
    let failed = |error: &dyn std::error::Error| {
        Failure::failed("the image of the running program cannot be made", error)
    };
    if let Some(linker) = own_interpreter().map_err(|error| failed(&error))? {
        return Err(Failure::input(format!(
            "this program is not static (it needs {}), and an image with nothing else in it could \
             not run it: build it with `{}`, and run `coral image` of that build",
            linker.display(),
            static_build()
        )));
    }
    let image = tokio::task::spawn_blocking(OwnImage::of_this_program).await;
    let image = image
        .map_err(|error| failed(&error))?
        .map_err(|error| failed(&error))?;
    write(&arguments, place, &image).await?;
    crate::terminal::print(&format!("{} {}", arguments.destination, image.digest()));
    Ok(ExitCode::SUCCESS)
}

async fn write(
    arguments: &ImageArguments,
    place: CopyEndpoint,
    image: &OwnImage,
) -> Result<(), Failure> {
    let client = arguments.client.client(arguments.client.host_options()?)?;
    let credentials = arguments.client.user_credentials()?;
    let version = version(&place);
    let (place, archive) = place.begun(None)?;
    let endpoint = place.endpoint(&client, &credentials);
    let what = || format!("{} was not written", arguments.destination);
    let pushed = image.push(&endpoint, &version).await;
    client.settle(SETTLING).await;
    pushed.map_err(|error| Failure::failed(what(), &error))?;
    if let Some(archive) = archive {
        let finished = archive.finish().await;
        finished.map_err(|error| Failure::failed(what(), &error))?;
    }
    Ok(())
}

fn version(place: &CopyEndpoint) -> Version {
    place
        .version()
        .unwrap_or_else(|| Version::Tag(Tag::latest()))
}

/// The command that builds a static program.
fn static_build() -> String {
    format!(
        "RUSTFLAGS=\"-C target-feature=+crt-static\" cargo build --release --target \
         {}-unknown-linux-gnu -p coral",
        std::env::consts::ARCH
    )
}
