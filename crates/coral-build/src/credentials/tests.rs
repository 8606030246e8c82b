use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex};

use super::*;

/// A controller that gives these answers, one a connection, and keeps what it was asked.
struct Scripted {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<String>>>,
    folder: tempfile::TempDir,
}

impl Scripted {
    fn start(answers: Vec<(u16, &'static str)>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let asked = Arc::<Mutex<Vec<String>>>::default();
        let noted = Arc::clone(&asked);
        std::thread::spawn(move || {
            for (status, body) in answers {
                let (mut stream, _) = listener.accept().unwrap();
                let mut request = Vec::new();
                let mut bytes = [0; 4096];
                while !String::from_utf8_lossy(&request).contains('}') {
                    let read = stream.read(&mut bytes).unwrap();
                    assert!(read > 0, "the request ends early");
                    request.extend_from_slice(&bytes[..read]);
                }
                noted
                    .lock()
                    .unwrap()
                    .push(String::from_utf8(request).unwrap());
                let length = body.len();
                let answer = format!(
                    "HTTP/1.1 {status} X\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}"
                );
                stream.write_all(answer.as_bytes()).unwrap();
            }
        });
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("token"), "the pod's token\n").unwrap();
        Self {
            address,
            asked,
            folder,
        }
    }

    async fn exchange(&self) -> Result<StepCredential, ExchangeError> {
        let url = format!("http://{}/", self.address);
        let token = self.folder.path().join("token");
        Controller::new(url, Vec::new(), token, Step::Push)
            .exchange()
            .await
    }
}

const GRANTED: &str = r#"{
    "registry": "local.coral-system.svc:5000", "username": "token", "password": "s3cret-token",
    "expires": "2026-11-27T10:00:00Z",
    "provenance": {"builder": "b@sha256:aa", "started": "2026-11-27T09:00:00Z", "finished": null}
}"#;

#[tokio::test]
async fn a_token_is_exchanged_for_a_credential_and_what_is_known_of_the_build() {
    let controller = Scripted::start(vec![(200, GRANTED)]);
    let credential = controller.exchange().await.unwrap();
    let container = &credential.container;
    assert_eq!(container.builder.as_deref(), Some("b@sha256:aa"));
    assert_eq!(credential.expires, "2026-11-27T10:00:00Z".parse().ok());
    assert_eq!(container.finished, None);
    assert!(!format!("{credential:?}").contains("s3cret-token"));
    let asked = controller.asked.lock().unwrap().join("");
    assert!(asked.starts_with("POST /v1/credentials "), "{asked}");
    assert!(asked.contains("Bearer the pod's token\r\n"), "{asked}");
    assert!(asked.ends_with(r#"{"step":"push"}"#), "{asked}");
}

#[tokio::test]
async fn it_is_asked_again_while_the_step_is_not_known_to_run() {
    let early = (409, r#"{"message": "ask again in a moment"}"#);
    let away = (503, "no JSON");
    let controller = Scripted::start(vec![early, away, (200, GRANTED)]);
    assert!(controller.exchange().await.is_ok());
    assert_eq!(controller.asked.lock().unwrap().len(), 3);
}

#[test]
fn what_was_built_waits_for_a_controller_that_is_away_and_for_no_refusal() {
    let refused = |status: u16| ExchangeError::Refused {
        status: StatusCode::from_u16(status).unwrap(),
        message: String::new(),
    };
    for (status, fetch, push) in [
        (503, Some(RETRY_FOR), Some(PUSH_RETRY_FOR)),
        (429, Some(RETRY_FOR), Some(PUSH_RETRY_FOR)),
        (409, Some(RETRY_FOR), Some(RETRY_FOR)),
        (403, None, None),
    ] {
        let error = refused(status);
        assert_eq!(error.ask_again_for(Step::Fetch), fetch, "{status}");
        assert_eq!(error.ask_again_for(Step::Push), push, "{status}");
    }
}

#[tokio::test]
async fn a_refusal_ends_at_once_with_the_controllers_words() {
    for status in [401, 403, 400] {
        let refusal = (status, r#"{"message": "the build was cancelled"}"#);
        let controller = Scripted::start(vec![refusal, (200, GRANTED)]);
        let said = controller.exchange().await.unwrap_err().to_string();
        assert!(said.contains("the build was cancelled"), "{said}");
        assert!(said.contains(&status.to_string()), "{said}");
    }
}

#[tokio::test]
async fn an_answer_of_another_form_is_refused_without_its_text() {
    for body in ["", "{}", r#"{"password": "s3cret-token"}"#] {
        let controller = Scripted::start(vec![(200, body)]);
        let error = controller.exchange().await.unwrap_err();
        assert!(matches!(error, ExchangeError::Answer), "{error}");
        assert!(!format!("{error:?}").contains("s3cret"), "{error:?}");
    }
}

#[tokio::test]
async fn without_its_token_a_step_says_which_file_is_missing() {
    let controller = Scripted::start(vec![]);
    std::fs::remove_file(controller.folder.path().join("token")).unwrap();
    let said = controller.exchange().await.unwrap_err().to_string();
    assert!(said.contains("token, cannot be read"), "{said}");
}
