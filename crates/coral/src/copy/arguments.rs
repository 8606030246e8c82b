//! What `coral copy` takes.

use clap::Args;
use coral_image::PlatformPattern;

use crate::client::ClientArguments;
use crate::values::{Output, platform};

#[derive(Debug, Args)]
pub(crate) struct CopyArguments {
    // Not doc comments: brackets would be links there.
    #[arg(
        value_name = "SRC",
        help = "What to copy: HOST/PATH:TAG, HOST/PATH@DIGEST, oci:DIR[:TAG], \
                oci-archive:FILE.tar[:TAG] or docker-archive:FILE.tar[:NAME:TAG]; FILE may be - for \
                standard input"
    )]
    pub(crate) source: String,
    #[arg(
        value_name = "DST",
        help = "Where to: HOST/PATH[:TAG], oci:DIR[:TAG], or oci-archive:FILE.tar[:TAG] or \
                docker-archive:FILE.tar[:NAME:TAG], which is replaced; FILE may be - for standard \
                output; without a tag, the source's"
    )]
    pub(crate) destination: String,
    /// Copy only these platforms of an index, such as linux/amd64 or linux/arm*; the index itself
    /// stays as it is. A docker-archive holds one platform: this machine's, if none is given
    #[arg(long = "platform", value_name = "OS/ARCH[/VARIANT]", value_parser = platform, value_delimiter = ',')]
    pub(crate) platforms: Vec<PlatformPattern>,
    /// Copy foreign layers too, where the source has them; otherwise layers that must not be
    /// distributed stay at the URLs that the manifest names
    #[arg(long)]
    pub(crate) foreign_layers: bool,
    /// Leave signatures, attestations and other referrers behind
    #[arg(long)]
    pub(crate) no_referrers: bool,
    /// Form of the output
    #[arg(short, long, default_value = "table", value_name = "FORMAT")]
    pub(crate) output: Output,
    #[command(flatten)]
    pub(crate) client: ClientArguments,
}
