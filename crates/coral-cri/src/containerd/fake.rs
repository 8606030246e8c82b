//! A containerd that keeps its images in memory: gRPC over a unix socket, with the calls that Coral
//! uses.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use http_body_util::{BodyExt, Full, combinators::WithTrailers};
use hyper::body::{Bytes, Incoming};
use hyper::header::{HeaderMap, HeaderValue};
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use tempfile::TempDir;
use tokio::net::UnixListener;
use tonic::Code;

use crate::proto::{containerd as ctr, cri};

/// The state of the fake, and how it misbehaves.
#[derive(Default)]
pub(super) struct State {
    /// Names and their targets.
    pub(super) names: BTreeMap<String, ctr::Image>,
    /// Pulls that fail, by reference.
    pub(super) refusals: BTreeMap<String, (Code, String)>,
    /// Pulls that never end, by reference.
    pub(super) hanging: BTreeSet<String>,
    /// Credentials that pulls sent: user and server.
    pub(super) logins: Vec<(String, String)>,
    /// `RegistryConfigPath`, as in containerd 2.
    pub(super) exported: Option<String>,
    /// The CRI plugin's configuration, as in containerd 1.
    pub(super) config: Option<String>,
    /// Image references of containers.
    pub(super) containers: Vec<String>,
    /// Namespaces that calls were made in.
    pub(super) namespaces: BTreeSet<String>,
}

/// A running fake. Its socket is removed when it is dropped.
pub(super) struct Fake {
    state: Arc<Mutex<State>>,
    folder: TempDir,
}

/// The answer to a call: a message, or a code with a text.
type Answer = Result<Vec<u8>, (Code, String)>;

impl Fake {
    pub(super) fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(folder.path().join("sock")).unwrap();
        let state = Arc::new(Mutex::new(State::default()));
        tokio::spawn(accept(listener, state.clone()));
        Self { state, folder }
    }

    pub(super) fn socket(&self) -> PathBuf {
        Path::new(self.folder.path()).join("sock")
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }
}

async fn accept(listener: UnixListener, state: Arc<Mutex<State>>) {
    while let Ok((stream, _)) = listener.accept().await {
        let state = state.clone();
        let service = hyper::service::service_fn(move |request| serve(request, state.clone()));
        tokio::spawn(
            hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(stream), service),
        );
    }
}

type Body = WithTrailers<Full<Bytes>, std::future::Ready<Option<Result<HeaderMap, Infallible>>>>;

async fn serve(
    request: Request<Incoming>,
    state: Arc<Mutex<State>>,
) -> Result<Response<Body>, hyper::Error> {
    let path = request.uri().path().to_owned();
    let namespace = request.headers().get("containerd-namespace").cloned();
    let bytes = request.into_body().collect().await?.to_bytes();
    let message = bytes.slice(5.min(bytes.len())..);
    if pull_hangs(&path, &message, &state) {
        std::future::pending::<()>().await;
    }
    let answer = {
        let mut state = state.lock().unwrap();
        let namespace = namespace.as_ref().and_then(|value| value.to_str().ok());
        state.namespaces.extend(namespace.map(str::to_owned));
        state.answer(&path, &message)
    };
    Ok(respond(answer))
}

fn pull_hangs(path: &str, message: &[u8], state: &Mutex<State>) -> bool {
    path.ends_with("/PullImage") && {
        let wanted = cri::PullImageRequest::decode(message).unwrap();
        let reference = wanted.image.unwrap().image;
        state.lock().unwrap().hanging.contains(&reference)
    }
}

fn respond(answer: Answer) -> Response<Body> {
    let mut trailers = HeaderMap::new();
    let mut body = Vec::new();
    let code = match answer {
        Ok(message) => {
            body.push(0);
            body.extend(u32::try_from(message.len()).unwrap().to_be_bytes());
            body.extend(message);
            Code::Ok
        }
        Err((code, words)) => {
            let words = words.replace('\n', "%0A");
            trailers.insert("grpc-message", HeaderValue::from_str(&words).unwrap());
            code
        }
    };
    trailers.insert("grpc-status", HeaderValue::from(code as i32));
    let body = Full::new(Bytes::from(body)).with_trailers(std::future::ready(Some(Ok(trailers))));
    Response::builder()
        .header("content-type", "application/grpc")
        .body(body)
        .unwrap()
}

fn read<M: Message + Default>(message: &[u8]) -> M {
    M::decode(message).unwrap()
}

impl State {
    /// Adds a name as a pull would.
    pub(super) fn name(&mut self, name: &str, digest: &str) {
        let image = ctr::Image {
            name: name.to_owned(),
            labels: HashMap::from([("io.cri-containerd.image".to_owned(), "managed".to_owned())]),
            target: Some(ctr::Descriptor {
                media_type: "application/vnd.oci.image.manifest.v1+json".to_owned(),
                digest: digest.to_owned(),
                size: 7,
                annotations: HashMap::new(),
            }),
        };
        self.names.insert(name.to_owned(), image);
    }

    fn answer(&mut self, path: &str, message: &[u8]) -> Answer {
        match path.rsplit('/').next().unwrap() {
            "Version" => Ok(cri::VersionResponse {
                runtime_name: "containerd".to_owned(),
                runtime_version: "v2.4.2".to_owned(),
            }
            .encode_to_vec()),
            "Status" => {
                let config = self
                    .config
                    .clone()
                    .map(|config| ("config".to_owned(), config));
                let info = config.into_iter().collect();
                Ok(cri::StatusResponse { info }.encode_to_vec())
            }
            "ListImages" => Ok(self.images().encode_to_vec()),
            "ListContainers" => {
                let containers = self.containers.iter().map(|image| cri::Container {
                    image_ref: image.clone(),
                    image_id: String::new(),
                });
                let containers = containers.collect();
                Ok(cri::ListContainersResponse { containers }.encode_to_vec())
            }
            "PullImage" => self.pull(&read(message)),
            "RemoveImage" => {
                self.remove(&read(message));
                Ok(cri::RemoveImageResponse {}.encode_to_vec())
            }
            "Plugins" => Ok(self.plugins().encode_to_vec()),
            call => self.names_call(call, message),
        }
    }

    fn names_call(&mut self, call: &str, message: &[u8]) -> Answer {
        let missing = |name: &str| (Code::NotFound, format!("image \"{name}\": not found"));
        let answer = |image: ctr::Image| ctr::ImageResponse { image: Some(image) }.encode_to_vec();
        match call {
            "List" => {
                let images = self.names.values().cloned().collect();
                Ok(ctr::ListImagesResponse { images }.encode_to_vec())
            }
            "Get" => {
                let name = read::<ctr::GetImageRequest>(message).name;
                let found = self.names.get(&name).cloned();
                found.map(answer).ok_or_else(|| missing(&name))
            }
            "Create" => {
                let image = read::<ctr::CreateImageRequest>(message).image.unwrap();
                assert!(image.target.is_some(), "this would end containerd 2");
                if self.names.contains_key(&image.name) {
                    return Err((Code::AlreadyExists, "already exists".to_owned()));
                }
                self.names.insert(image.name.clone(), image.clone());
                Ok(answer(image))
            }
            "Update" => {
                let request = read::<ctr::UpdateImageRequest>(message);
                let image = request.image.unwrap();
                let paths = request.update_mask.unwrap().paths;
                assert!(image.target.is_some(), "this would end containerd 2");
                assert!(!paths.is_empty(), "this would replace every field");
                let Some(stored) = self.names.get_mut(&image.name) else {
                    return Err(missing(&image.name));
                };
                update(stored, &image, &paths);
                Ok(answer(stored.clone()))
            }
            "Delete" => {
                let name = read::<ctr::DeleteImageRequest>(message).name;
                let removed = self.names.remove(&name);
                removed.map(|_| Vec::new()).ok_or_else(|| missing(&name))
            }
            _ => Err((Code::Unimplemented, format!("{call} is not offered"))),
        }
    }

    /// An image's ID is derived from its digest, so names with the same digest are one image.
    fn images(&self) -> cri::ListImagesResponse {
        let mut images: BTreeMap<String, cri::Image> = BTreeMap::new();
        for image in self.names.values() {
            let digest = image.target.clone().unwrap().digest;
            let entry = images.entry(digest.clone()).or_default();
            entry.id = digest.replace("sha256:", "sha256:1d");
            entry.size = 7;
            entry.pinned |= image.labels.contains_key("io.cri-containerd.pinned");
            let names = if image.name.contains('@') {
                &mut entry.repo_digests
            } else {
                &mut entry.repo_tags
            };
            names.push(image.name.clone());
        }
        let images = images.into_values().collect();
        cri::ListImagesResponse { images }
    }

    fn pull(&mut self, request: &cri::PullImageRequest) -> Answer {
        let reference = request.image.clone().unwrap().image;
        if let Some(auth) = &request.auth {
            let login = (auth.username.clone(), auth.server_address.clone());
            self.logins.push(login);
        }
        if let Some(refusal) = self.refusals.get(&reference) {
            return Err(refusal.clone());
        }
        let digest = reference.split_once('@').unwrap().1.to_owned();
        self.name(&reference, &digest);
        let image_ref = digest.replace("sha256:", "sha256:1d");
        Ok(cri::PullImageResponse { image_ref }.encode_to_vec())
    }

    /// Removes every name of the image, as containerd does.
    fn remove(&mut self, request: &cri::RemoveImageRequest) {
        let reference = request.image.clone().unwrap().image;
        if let Some(found) = self.names.get(&reference) {
            let target = found.target.clone();
            self.names.retain(|_, image| image.target != target);
        }
    }

    fn plugins(&self) -> ctr::PluginsResponse {
        let plugins = self.exported.iter().map(|path| ctr::Plugin {
            r#type: "io.containerd.cri.v1".to_owned(),
            id: "images".to_owned(),
            exports: HashMap::from([("RegistryConfigPath".to_owned(), path.clone())]),
        });
        let plugins = plugins.collect();
        ctr::PluginsResponse { plugins }
    }
}

fn update(stored: &mut ctr::Image, image: &ctr::Image, paths: &[String]) {
    for path in paths {
        if let Some(label) = path.strip_prefix("labels.") {
            match image.labels.get(label).filter(|value| !value.is_empty()) {
                Some(value) => stored.labels.insert(label.to_owned(), value.clone()),
                None => stored.labels.remove(label),
            };
        } else {
            assert_eq!(path, "target");
            stored.target.clone_from(&image.target);
        }
    }
}
