//! YAML documents from files: `coral up` reads the same objects that a cluster accepts.

mod bounds;
mod check;
mod chunk;
mod finding;
mod node;
mod object;
mod suggestion;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use finding::Findings;
use node::Node;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::metadata;
use crate::registry::Registry;
use crate::registry_mirror::RegistryMirror;
use crate::secret::Secret;

/// Largest file that is read, in bytes.
pub const MAX_FILE_SIZE: usize = 4 * 1024 * 1024;
/// Stack of the reading thread: several times what an unoptimised build uses at the deepest nesting
/// that is accepted.
const STACK_SIZE: usize = 16 * 1024 * 1024;
/// Most documents that are read from one file.
const MAX_DOCUMENTS: usize = 10_000;
/// Most errors that are reported for one file.
const MAX_ERRORS: usize = 100;

pub use crate::metadata::DEFAULT_NAMESPACE;

/// One document of a file.
#[derive(Debug, Clone)]
pub struct Document {
    /// The file, as it was named to [`read`].
    pub origin: String,
    /// The line of its first key, counted from 1.
    pub line: usize,
    /// Its content.
    pub object: Object,
    /// Warnings: the document can be used all the same.
    pub warnings: Vec<String>,
}

/// The content of a document.
#[derive(Debug, Clone)]
pub enum Object {
    /// A mirror, checked: [`RegistryMirror::settings`] gives no error.
    RegistryMirror(Box<RegistryMirror>),
    /// A registry, checked: [`Registry::settings`] gives no error.
    Registry(Box<Registry>),
    /// A Secret.
    Secret(Box<Secret>),
    /// An object that Coral does not use in files.
    Skipped {
        /// Its kind.
        kind: String,
        /// Its name; empty if it has none.
        name: String,
        /// Why it is skipped.
        reason: String,
    },
}

impl Object {
    /// Kind, namespace and name, by which objects are told apart.
    pub fn key(&self) -> (&str, &str, &str) {
        fn namespace_and_name(meta: &ObjectMeta) -> (&str, &str) {
            (metadata::namespace(meta), metadata::name(meta))
        }
        match self {
            Self::RegistryMirror(mirror) => {
                let (namespace, name) = namespace_and_name(&mirror.metadata);
                (crate::names::kind::REGISTRY_MIRROR, namespace, name)
            }
            Self::Registry(registry) => {
                let (namespace, name) = namespace_and_name(&registry.metadata);
                (crate::names::kind::REGISTRY, namespace, name)
            }
            Self::Secret(secret) => {
                let (namespace, name) = namespace_and_name(&secret.metadata);
                ("Secret", namespace, name)
            }
            Self::Skipped { kind, name, .. } => (kind, "", name),
        }
    }
}

/// Something wrong in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DocumentError {
    /// The file, as it was named to [`read`].
    pub origin: String,
    /// The line, counted from 1; 0 where there is none.
    pub line: usize,
    /// Kind and name of the object, as far as they are known: `RegistryMirror "web"`.
    pub object: Option<String>,
    /// What is wrong and what to do.
    pub message: String,
}

impl fmt::Display for DocumentError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(f, "{}: ", self.origin)?,
            line => write!(f, "{}:{line}: ", self.origin)?,
        }
        self.object
            .iter()
            .try_for_each(|object| write!(f, "{object}: "))?;
        f.write_str(&self.message)
    }
}

impl std::error::Error for DocumentError {}

/// Reads every document of a file; `origin` is its name in messages. Every error that can be
/// found is reported, in the order of the lines.
///
/// It reads on a thread of its own: the YAML parser recurses, and at the deepest nesting that is
/// allowed it needs more stack than some threads have.
pub fn read(origin: &str, text: &str) -> Result<Vec<Document>, Vec<DocumentError>> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().stack_size(STACK_SIZE);
        match thread.spawn_scoped(scope, || Reading::new(origin).read(text)) {
            Ok(thread) => thread
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
            Err(error) => {
                let message = format!("cannot start a thread to read it: {error}");
                Err(vec![Reading::new(origin).error(0, None, message)])
            }
        }
    })
}

/// [`read`] without the thread, for the fuzz target: starting the thread takes longer than reading.
#[cfg(fuzzing)]
pub fn read_here(origin: &str, text: &str) -> Result<Vec<Document>, Vec<DocumentError>> {
    Reading::new(origin).read(text)
}

/// Reports objects of the same kind, namespace and name in more than one document. [`read`] checks
/// a single file; call this for the documents of several. The error names both files, because the
/// order of the files does not show which one is meant.
pub fn duplicates(documents: &[Document]) -> Vec<DocumentError> {
    let mut seen: BTreeMap<(&str, &str, &str), &Document> = BTreeMap::new();
    let mut told = BTreeSet::new();
    let mut errors = Vec::new();
    for document in documents {
        if matches!(document.object, Object::Skipped { .. }) {
            continue;
        }
        let key = document.object.key();
        let Some(first) = seen.get(&key) else {
            seen.insert(key, document);
            continue;
        };
        if first.origin != document.origin && told.insert(key) {
            errors.push(twice(first, "and", document));
        }
        errors.push(twice(document, "first", first));
    }
    errors
}

fn twice(document: &Document, order: &str, other: &Document) -> DocumentError {
    let (kind, _, name) = document.object.key();
    let (origin, line) = (&other.origin, other.line);
    DocumentError {
        origin: document.origin.clone(),
        line: document.line,
        object: Some(format!("{kind} {name:?}")),
        message: format!("occurs twice, {order} at {origin}:{line}: rename one of them"),
    }
}

/// The documents and errors of a file so far.
struct Reading<'a> {
    origin: &'a str,
    documents: Vec<Document>,
    errors: Vec<DocumentError>,
}

impl<'a> Reading<'a> {
    fn new(origin: &'a str) -> Self {
        Self {
            origin,
            documents: Vec::new(),
            errors: Vec::new(),
        }
    }

    fn read(mut self, text: &str) -> Result<Vec<Document>, Vec<DocumentError>> {
        if text.len() > MAX_FILE_SIZE {
            let message = format!("has {} bytes, at most {MAX_FILE_SIZE} are read", text.len());
            return Err(vec![self.error(0, None, message)]);
        }
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let chunks = chunk::chunks(text);
        if chunks.len() > MAX_DOCUMENTS {
            let message = format!(
                "has {} documents, at most {MAX_DOCUMENTS} are read",
                chunks.len()
            );
            return Err(vec![self.error(0, None, message)]);
        }
        for chunk in chunks {
            match Node::parse(chunk.text, chunk.lines_before) {
                Ok(node) => self.root(&node),
                Err(error) => {
                    let message = format!("not YAML: {}", error.message);
                    let error = self.error(error.line, None, message);
                    self.errors.push(error);
                }
            }
        }
        self.finish()
    }

    fn error(&self, line: usize, object: Option<String>, message: String) -> DocumentError {
        DocumentError {
            origin: self.origin.to_owned(),
            line,
            object,
            message,
        }
    }

    /// Adds one document; each item of a `kind: List` is a separate object.
    fn root(&mut self, node: &Node) {
        if node.is_null() {
            return;
        }
        let is_list = node.get("kind").and_then(Node::text) == Some("List")
            && node.get("apiVersion").and_then(Node::text) == Some("v1");
        match node.get("items").map(|items| &items.value) {
            Some(node::Value::List(items)) if is_list => items.iter().for_each(|n| self.object(n)),
            _ => self.object(node),
        }
    }

    fn object(&mut self, node: &Node) {
        let mut findings = Findings::default();
        let mut warnings = Vec::new();
        let object = object::read(node, &mut findings, &mut warnings);
        if let (Some(object), true) = (object, findings.list.is_empty()) {
            let origin = self.origin.to_owned();
            self.documents.push(Document {
                origin,
                line: node.line,
                object,
                warnings,
            });
        }
        let title = object::title(node);
        for finding in findings.list {
            self.errors
                .push(self.error(finding.line, title.clone(), finding.message));
        }
    }

    fn finish(mut self) -> Result<Vec<Document>, Vec<DocumentError>> {
        self.errors.extend(duplicates(&self.documents));
        if self.errors.is_empty() {
            return Ok(self.documents);
        }
        self.errors.sort_by_key(|error| error.line);
        if let Some(more) = self.errors.len().checked_sub(MAX_ERRORS).filter(|n| *n > 0) {
            self.errors.truncate(MAX_ERRORS);
            let error = self.error(0, None, format!("and {more} more errors"));
            self.errors.push(error);
        }
        Err(self.errors)
    }
}
