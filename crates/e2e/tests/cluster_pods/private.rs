//! A repository outside that only a user may read.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use e2e::cluster::{Cluster, OutsideRegistry};
use e2e::image::{add_three_layers, busybox_root};
use e2e::{Layout, RegistryProgram, User, scratch};
use serde_json::json;

use crate::big::mirror_of;
use crate::stage::{Applied, Stage};

const USER: User = User {
    name: "reader",
    password: "known-to-few-5",
};

/// The registry, with the image `team/secret:1`.
pub(crate) struct Private {
    registry: OutsideRegistry,
}

impl Private {
    pub(crate) fn start(stage: &Stage<'_>) -> Self {
        let registry = OutsideRegistry::start_for(RegistryProgram::DockerRegistry, stage.own, USER);
        let folder = scratch();
        let layout = Layout::open(folder.path().join("layout"));
        add_three_layers(&layout, "secret", &busybox_root(folder.path()));
        registry.push(&layout, "secret", "team/secret:1");
        Self { registry }
    }

    /// The reference of the image.
    pub(crate) fn image(&self) -> String {
        format!("{}/team/secret:1", self.registry.host())
    }

    /// Mirrors it with its credential, for as long as the values live.
    pub(crate) fn bring_inside<'a>(&self, cluster: &'a Cluster) -> [Applied<'a>; 2] {
        let login = STANDARD.encode(format!("{}:{}", USER.name, USER.password));
        let config = json!({"auths": {self.registry.host(): {"auth": login}}});
        let secret = json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "outside-login"},
            "type": "kubernetes.io/dockerconfigjson",
            "stringData": {".dockerconfigjson": config.to_string()},
        });
        let repository = format!("{}/team/secret", self.registry.host());
        let secrets = json!({"imagePullSecrets": [{"name": "outside-login"}]});
        cluster.grant("coral-system", &["outside-login"]);
        let mirror = mirror_of("private", &repository, &["1".to_owned()], &secrets);
        [
            Applied::new(cluster, "coral-system", "secret", &secret),
            Applied::new(cluster, "coral-system", "registrymirror", &mirror),
        ]
    }
}
