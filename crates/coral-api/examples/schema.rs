//! Prints the JSON schema of a kind, from which its reference page is made: the CRD's schema, but
//! with the fields in the order of the types.

#![allow(clippy::print_stdout, reason = "printing is all it does")]

use std::io;

use coral_api::image::Image;
use coral_api::image_build::ImageBuild;
use coral_api::injection_policy::InjectionPolicy;
use coral_api::mirrored_images::MirroredImages;
use coral_api::node_images::NodeImages;
use coral_api::registry_route::RegistryRoute;
use coral_api::{Registry, RegistryMirror};
use schemars::generate::SchemaSettings;

fn main() -> io::Result<()> {
    let kind = std::env::args().nth(1).unwrap_or_default();
    let settings = SchemaSettings::draft2020_12().with(|s| s.inline_subschemas = true);
    let generator = settings.into_generator();
    let schema = match kind.as_str() {
        "Image" => generator.into_root_schema_for::<Image>(),
        "ImageBuild" => generator.into_root_schema_for::<ImageBuild>(),
        "InjectionPolicy" => generator.into_root_schema_for::<InjectionPolicy>(),
        "MirroredImages" => generator.into_root_schema_for::<MirroredImages>(),
        "NodeImages" => generator.into_root_schema_for::<NodeImages>(),
        "Registry" => generator.into_root_schema_for::<Registry>(),
        "RegistryMirror" => generator.into_root_schema_for::<RegistryMirror>(),
        "RegistryRoute" => generator.into_root_schema_for::<RegistryRoute>(),
        other => return Err(io::Error::other(format!("no kind {other:?}"))),
    };
    println!("{}", serde_json::to_string(&schema)?);
    Ok(())
}
