//! A credential of the internal registry, from the controller: the token of the pod's
//! ServiceAccount is exchanged for one that is valid for minutes.

use std::path::PathBuf;
use std::time::Duration;

use coral_image::Host;
use reqwest::StatusCode;

use crate::access::{CredentialError, CredentialFuture, CredentialSource, StepCredential};
use crate::contract::{
    CREDENTIALS_PATH, CredentialAnswer, CredentialRefusal, CredentialRequest, RESULTS_PATH, Step,
    env, path,
};
use crate::pod::{Pod, PodError};

/// How long one request may take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// Most bytes of an answer that are read.
const MOST_BYTES: usize = 64 * 1024;
/// How long to retry while the controller cannot answer, or does not yet know that the step runs:
/// replacing a controller takes less.
const RETRY_FOR: Duration = Duration::from_mins(2);
/// How long `push` retries while the controller or its API server is unavailable, because what was
/// built would be lost. The timeout of the run continues.
const PUSH_RETRY_FOR: Duration = Duration::from_mins(15);
/// How long `push` tries to report its result. The report only saves time: the controller reads the
/// result from the pod a second later.
const REPORT_FOR: Duration = Duration::from_secs(2);
/// How many times it tries. Only the leading controller accepts reports, and each request may reach
/// another one.
const REPORT_ATTEMPTS: usize = 5;
/// The first pause between two requests; it doubles up to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// The controller, as a step of a build asks it.
#[derive(Debug, Clone)]
pub struct Controller {
    url: String,
    authority: Vec<u8>,
    token_file: PathBuf,
    step: Step,
}

/// Why the controller gave no credential.
#[derive(Debug, thiserror::Error)]
pub enum ExchangeError {
    /// The pod was not made by the controller.
    #[error(
        "the environment variable {} is not set: only the controller makes pods of builds",
        env::CONTROLLER
    )]
    NoController,
    /// A file of the contract.
    #[error(transparent)]
    Pod(#[from] PodError),
    /// The token cannot be read.
    #[error("the token of the ServiceAccount, {file}, cannot be read")]
    Token {
        /// Its file.
        file: String,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// The certificates of the authority, or the client made with them.
    #[error("the certificates of Coral's authority cannot be used")]
    Authority(#[source] reqwest::Error),
    /// No answer.
    #[error("the controller at {url} cannot be reached")]
    Unreachable {
        /// Its address.
        url: String,
        /// Why not.
        #[source]
        source: reqwest::Error,
    },
    /// The controller refused.
    #[error("the controller refused with status {}: {message}", .status.as_u16())]
    Refused {
        /// The status.
        status: StatusCode,
        /// The controller's words.
        message: String,
    },
    /// The controller did not acknowledge the result in time.
    #[error("the controller did not answer in time")]
    Late,
    /// The answer is not what the contract says.
    #[error("the controller's answer violates the contract of builds")]
    Answer,
}

impl ExchangeError {
    /// How long to retry; `None` if a retry cannot help.
    fn ask_again_for(&self, step: Step) -> Option<Duration> {
        let is_away = match self {
            Self::Unreachable { .. } => true,
            Self::Refused { status, .. } if *status == StatusCode::CONFLICT => false,
            Self::Refused { status, .. }
                if status.is_server_error() || *status == StatusCode::TOO_MANY_REQUESTS =>
            {
                true
            }
            _ => return None,
        };
        Some(match step {
            Step::Push if is_away => PUSH_RETRY_FOR,
            _ => RETRY_FOR,
        })
    }
}

impl Controller {
    /// The controller that made this pod: its address is in the environment, the authority's
    /// certificates and the token are files of the pod.
    pub fn from_pod(pod: &Pod, step: Step) -> Result<Self, ExchangeError> {
        let url = std::env::var(env::CONTROLLER).map_err(|_| ExchangeError::NoController)?;
        let authority = pod.authority()?.unwrap_or_default();
        Ok(Self::new(url, authority, pod.path(path::TOKEN), step))
    }

    /// The controller at a URL, which has a certificate of this authority.
    pub fn new(
        url: impl Into<String>,
        authority: Vec<u8>,
        token_file: impl Into<PathBuf>,
        step: Step,
    ) -> Self {
        Self {
            url: url.into().trim_end_matches('/').to_owned(),
            authority,
            token_file: token_file.into(),
            step,
        }
    }

    /// Asks until there is an answer that a retry would not change.
    pub async fn exchange(&self) -> Result<StepCredential, ExchangeError> {
        let began = tokio::time::Instant::now();
        let mut pause = FIRST_PAUSE;
        let mut is_told = false;
        loop {
            let error = match self.ask().await {
                Ok(grant) => return Ok(grant),
                Err(error) => error,
            };
            let patience = error.ask_again_for(self.step).unwrap_or_default();
            if began.elapsed() + pause >= patience {
                return Err(error);
            }
            // The first requests often fail: the API server learns a moment later that the step
            // runs.
            if pause == LONGEST_PAUSE && !is_told {
                let (step, seconds) = (self.step.name(), patience.as_secs());
                tracing::warn!(%error, step, seconds, "no credential yet; asking again");
                is_told = true;
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Tells the controller the result of `push`, which is its termination message. The message in
    /// the pod is the regular way; this is faster than the node.
    pub async fn report(&self, message: &str) -> Result<(), ExchangeError> {
        let reporting = async {
            for _ in 1..REPORT_ATTEMPTS {
                match self.post(RESULTS_PATH, message.as_bytes().to_vec()).await {
                    // This controller does not lead.
                    Err(ExchangeError::Refused { status, .. })
                        if status == StatusCode::SERVICE_UNAVAILABLE => {}
                    reported => return reported,
                }
            }
            self.post(RESULTS_PATH, message.as_bytes().to_vec()).await
        };
        let reported = tokio::time::timeout(REPORT_FOR, reporting).await;
        reported.unwrap_or(Err(ExchangeError::Late)).map(drop)
    }

    async fn ask(&self) -> Result<StepCredential, ExchangeError> {
        let request = CredentialRequest { step: self.step };
        let body = serde_json::to_vec(&request).map_err(|_| ExchangeError::Answer)?;
        credential(&self.post(CREDENTIALS_PATH, body).await?)
    }

    /// Sends a request with the pod's token. Returns the body of the response.
    async fn post(&self, path: &str, body: Vec<u8>) -> Result<Vec<u8>, ExchangeError> {
        // kubelet replaces the file before the token expires, so it is read again for each request.
        let token = std::fs::read_to_string(&self.token_file);
        let token = token.map_err(|source| ExchangeError::Token {
            file: self.token_file.display().to_string(),
            source,
        })?;
        let url = format!("{}{path}", self.url);
        let unreachable = |source: reqwest::Error| ExchangeError::Unreachable {
            url: self.url.clone(),
            source: source.without_url(),
        };
        let asking = self.client()?.post(&url).bearer_auth(token.trim());
        let mut response = asking.body(body).send().await.map_err(unreachable)?;
        let status = response.status();
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(unreachable)? {
            body.extend_from_slice(&chunk);
            if body.len() > MOST_BYTES {
                return Err(ExchangeError::Answer);
            }
        }
        if !status.is_success() {
            let message = serde_json::from_slice::<CredentialRefusal>(&body);
            let message = message.map_or_else(|_| "no reason is given".to_owned(), |it| it.message);
            return Err(ExchangeError::Refused { status, message });
        }
        Ok(body)
    }

    /// Trusts only Coral's authority and uses no proxy: the controller is inside the cluster.
    fn client(&self) -> Result<reqwest::Client, ExchangeError> {
        let trusted = reqwest::Certificate::from_pem_bundle(&self.authority);
        let builder = reqwest::Client::builder()
            .tls_certs_only(trusted.map_err(ExchangeError::Authority)?)
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .timeout(REQUEST_TIMEOUT);
        builder.build().map_err(ExchangeError::Authority)
    }
}

fn credential(body: &[u8]) -> Result<StepCredential, ExchangeError> {
    // The parser's message is not shown: it may contain the credential.
    let answer: CredentialAnswer =
        serde_json::from_slice(body).map_err(|_| ExchangeError::Answer)?;
    let host = Host::parse(&answer.registry).map_err(|_| ExchangeError::Answer)?;
    let mut credential = StepCredential::new(&host, &answer.username, &answer.password);
    credential.expires = Some(answer.expires);
    credential.container = answer.provenance.unwrap_or_default();
    Ok(credential)
}

impl CredentialSource for Controller {
    fn credential(&self) -> CredentialFuture<'_> {
        Box::pin(async {
            let answer = self.exchange().await;
            answer.map_err(|error| CredentialError(Box::new(error)))
        })
    }
}

#[cfg(test)]
mod tests;
