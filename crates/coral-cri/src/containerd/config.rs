//! Finds the folder from which containerd reads `hosts.toml` files.

use serde::Deserialize;

use super::Containerd;
use crate::proto::{containerd as ctr, cri};
use crate::{Category, ConfigPath, RuntimeError};

/// The part of the CRI plugin's configuration that containerd 1.x includes in its status.
#[derive(Deserialize, Default)]
#[serde(default)]
struct Config {
    registry: RegistryConfig,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct RegistryConfig {
    config_path: String,
}

impl Containerd {
    /// Reads the exports of the image plugin (containerd 2), or else the configuration in the
    /// runtime's status (containerd 1).
    pub(super) async fn registry_config_path(&self) -> Result<ConfigPath, RuntimeError> {
        if let Some(exported) = self.exported_config_path().await? {
            return Ok(ConfigPath::parse(&exported));
        }
        let action = "read the runtime's configuration";
        let request = cri::StatusRequest { verbose: true };
        let path = "/runtime.v1.RuntimeService/Status";
        let answer: cri::StatusResponse = self.channel.quick(action, path, request).await?;
        let config = answer.info.get("config").map_or("{}", String::as_str);
        let config: Config = serde_json::from_str(config).map_err(|error| {
            let message = format!("the configuration cannot be read: {error}");
            RuntimeError::new(action, Category::Other, &message)
        })?;
        Ok(ConfigPath::parse(&config.registry.config_path))
    }

    async fn exported_config_path(&self) -> Result<Option<String>, RuntimeError> {
        let path = "/containerd.services.introspection.v1.Introspection/Plugins";
        let request = ctr::PluginsRequest {
            filters: vec!["type==io.containerd.cri.v1,id==images".to_owned()],
        };
        let answer: Result<ctr::PluginsResponse, _> =
            self.channel.quick("list plugins", path, request).await;
        let plugins = match answer {
            Ok(answer) => answer.plugins,
            Err(error) if error.category() == Category::Unsupported => return Ok(None),
            Err(error) => return Err(error),
        };
        let mut images = plugins
            .into_iter()
            .filter(|plugin| plugin.r#type == "io.containerd.cri.v1" && plugin.id == "images");
        Ok(images.find_map(|mut plugin| plugin.exports.remove("RegistryConfigPath")))
    }
}
