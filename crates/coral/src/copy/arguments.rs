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
        help = "Where to copy it: HOST/PATH[:TAG], oci:DIR[:TAG], oci-archive:FILE.tar[:TAG] or \
                docker-archive:FILE.tar[:NAME:TAG]; an existing FILE is replaced, and FILE may be \
                - for standard output [default tag: the source's]"
    )]
    pub(crate) destination: String,
    /// Copy only these platforms of an index, such as linux/amd64 or linux/arm*; the index itself
    /// is not changed. A docker-archive holds one platform, by default this machine's
    #[arg(long = "platform", value_name = "OS/ARCH[/VARIANT]", value_parser = platform, value_delimiter = ',')]
    pub(crate) platforms: Vec<PlatformPattern>,
    /// Also copy foreign layers, where the source has them. By default these layers, which must not
    /// be redistributed, stay at the URLs that the manifest names
    #[arg(long)]
    pub(crate) foreign_layers: bool,
    /// Do not copy signatures, attestations and other referrers
    #[arg(long)]
    pub(crate) no_referrers: bool,
    /// Output format
    #[arg(short, long, default_value = "table", value_name = "FORMAT")]
    pub(crate) output: Output,
    #[command(flatten)]
    pub(crate) client: ClientArguments,
}
