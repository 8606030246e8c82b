//! `coral uninstall`: removes Coral from a cluster in the right order, so that afterwards `kubectl
//! delete -k deploy/` removes what is left.
//!
//! It acts with the user's own rights and needs no other part of Coral than the agents, which alone
//! can remove their files from the nodes. Every step looks at the current state, so the command can
//! be repeated at any point.

mod nodes;
mod objects;
mod registries;

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use coral_api::GoDuration;
use k8s_openapi::api::admissionregistration::v1::{
    MutatingWebhookConfiguration, ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding,
};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret};
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use kube::api::{ListParams, Patch, PatchParams};
use serde_json::json;

use crate::cluster::{Calls, ClusterArguments};
use crate::failure::Failure;
use crate::grant::PART_OF;
use crate::terminal::Terminal;
use coral_api::names::namespace::{NODES, SYSTEM};

/// The policies of a lock, and their bindings.
const LOCKS: [&str; 2] = ["coral-lock", "coral-lock-templates"];
/// The Deployment and the Lease of the controller, and the label of its pods.
const CONTROLLER: &str = "coral-controller";
/// The webhook's configuration, and the agents' `ConfigMap`.
const CORAL: &str = "coral";

/// What `coral uninstall` takes.
#[derive(Debug, Args)]
pub(crate) struct UninstallArguments {
    /// Also delete the volumes of Registries, with every image in them
    #[arg(long)]
    delete_data: bool,
    /// Continue even if agents have not confirmed that their files are gone; the files stay on
    /// those nodes
    #[arg(long)]
    without_agents: bool,
    /// How long to wait for the agents, and then for objects to be deleted, such as 30s or 5m
    #[arg(long, value_name = "TIME", default_value = "2m", value_parser = timeout)]
    timeout: Duration,
    #[command(flatten)]
    cluster: ClusterArguments,
}

fn timeout(text: &str) -> Result<Duration, String> {
    let time = GoDuration::parse(text).map_err(|error| error.to_string())?;
    Ok(time.get())
}

/// Runs the steps in order; the first that cannot be done ends it.
pub(crate) async fn run(
    arguments: UninstallArguments,
    terminal: &Terminal,
) -> Result<ExitCode, Failure> {
    let calls = Calls::connect(&arguments.cluster, arguments.timeout).await?;
    let say = |text: &str| terminal.line(text);
    // The controller would write all of it again.
    stop_controller(&calls, terminal).await?;
    say("removing the webhook and the locks");
    remove_admission(&calls).await?;
    say("waiting for the agents to remove routes, files and pins from the nodes");
    nodes::empty(&calls, arguments.without_agents, terminal).await?;
    say("removing labels, the condition and the taint from the nodes");
    nodes::clean(&calls).await?;
    registries::keep_or_delete_volumes(&calls, arguments.delete_data, terminal).await?;
    let workloads = registries::Workloads::of_registries(&calls).await?;
    say("deleting the objects of Coral's kinds");
    objects::delete_all(&calls).await?;
    registries::wait_until_gone(&calls, &workloads).await?;
    if arguments.delete_data {
        registries::delete_volumes(&calls, terminal).await?;
    }
    say("deleting what the controller and `coral grant` made");
    remove_own(&calls).await?;
    crate::terminal::print(
        "Coral's objects and node files are removed. Now delete the installation: kubectl delete --ignore-not-found -k deploy/",
    );
    Ok(ExitCode::SUCCESS)
}

async fn stop_controller(calls: &Calls, terminal: &Terminal) -> Result<(), Failure> {
    let deployments = calls.namespaced::<Deployment>(SYSTEM);
    let params = PatchParams::default();
    let none = Patch::Merge(json!({"spec": {"replicas": 0}}));
    let stopping = deployments.patch(CONTROLLER, &params, &none);
    if calls
        .optional("stopping the controller", stopping)
        .await?
        .is_none()
    {
        return Ok(());
    }
    terminal.line("stopping the controller");
    let pods = calls.namespaced::<Pod>(SYSTEM);
    let of_controller =
        ListParams::default().labels(&format!("app.kubernetes.io/name={CONTROLLER}"));
    let stopped = calls.until(async || {
        let running = calls.list(&pods, &of_controller).await?;
        Ok(running.is_empty())
    });
    if !stopped.await? {
        // On a node that is down, a pod is listed forever; its lease expires by itself.
        terminal.line("the controller's pod is still listed: its node may be down; going on");
    }
    Ok(())
}

async fn remove_admission(calls: &Calls) -> Result<(), Failure> {
    // The configuration itself is part of the installation: `kubectl delete -k` expects it.
    let configurations = calls.all::<MutatingWebhookConfiguration>();
    let params = PatchParams::default();
    let none = Patch::Merge(json!({"webhooks": null}));
    let emptying = configurations.patch(CORAL, &params, &none);
    calls.optional("removing the webhook", emptying).await?;
    let bindings = calls.all::<ValidatingAdmissionPolicyBinding>();
    let policies = calls.all::<ValidatingAdmissionPolicy>();
    for name in LOCKS {
        calls.delete(&bindings, name).await?;
        calls.delete(&policies, name).await?;
    }
    Ok(())
}

async fn remove_own(calls: &Calls) -> Result<(), Failure> {
    for name in [
        "coral-ca",
        "coral-controller-tls",
        "coral-tokens",
        "coral-webhook-tls",
    ] {
        calls
            .delete(&calls.namespaced::<Secret>(SYSTEM), name)
            .await?;
    }
    calls
        .delete(&calls.namespaced::<ConfigMap>(NODES), CORAL)
        .await?;
    calls
        .delete(&calls.namespaced::<Lease>(SYSTEM), CONTROLLER)
        .await?;
    let granted = ListParams::default().labels(&format!("{}={}", PART_OF.0, PART_OF.1));
    calls
        .delete_listed::<RoleBinding>(&granted, outside)
        .await?;
    calls.delete_listed::<Role>(&granted, outside).await
}

/// Whether an object is in a namespace that `kubectl delete -k deploy/` does not remove.
fn outside(namespace: &str) -> bool {
    namespace != SYSTEM && namespace != NODES
}
