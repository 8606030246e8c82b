//! The same for machines.

use coral_image::Platform;
use coral_mirror::{RepositoryView, Summary};
use serde_json::{Value, json};

use super::Visit;
use super::api::ApiError;
use super::board::BoardMirror;
use super::html::repositories::PER_PAGE as REPOSITORIES;
use super::images::{PER_PAGE, Shown, ShownImage};
use super::query::PageQuery;

/// Mirrors told of at once; others are asked for by name.
const MOST_MIRRORS: usize = 100;

pub(super) async fn status(visit: &Visit, query: &PageQuery) -> Result<Value, ApiError> {
    let last = query.last(coral_image::RepositoryPath::parse);
    let api = &visit.pages.api;
    let repositories = api
        .repositories(&visit.reader, last.as_ref(), REPOSITORIES)
        .await?;
    let mut mirrors = vec![];
    let everything = repositories.is_whole;
    let board = &visit.pages.site.board;
    let (running, broken) = if everything {
        (board.mirrors(), board.broken())
    } else {
        Default::default()
    };
    let is_asked_for = |name: &str| query.mirror().is_none_or(|asked| asked == name);
    let count = running.len();
    let asked = running
        .into_iter()
        .filter(|mirror| is_asked_for(&mirror.name));
    for mirror in asked.take(MOST_MIRRORS) {
        let shown = visit.images(&mirror, query.which(), query.page(), PER_PAGE);
        mirrors.push(mirror_json(&mirror, &shown.await));
    }
    Ok(json!({
        "version": env!("CARGO_PKG_VERSION"),
        "time": visit.now,
        "registry": {"host": visit.host},
        "everything": everything,
        "brokenFiles": broken,
        "mirrorsTotal": count,
        "mirrors": mirrors,
        "repositories": {"names": repositories.names, "next": repositories.next()},
    }))
}

fn mirror_json(mirror: &BoardMirror, shown: &Shown) -> Value {
    let mut value = json!({
        "name": mirror.name,
        "file": mirror.origin,
        "destination": mirror.destination,
        "suspended": mirror.suspended,
    });
    let Summary {
        desired,
        mirrored,
        sparse,
        pending,
        failing,
        errors,
        moved,
        next_try,
        next_pass,
        ..
    } = mirror.summary();
    let more = json!({
        "desired": desired, "mirrored": mirrored, "sparse": sparse, "pending": pending,
        "failing": failing, "errors": errors, "bytesMoved": moved,
        "nextTry": next_try, "nextPass": next_pass.filter(|at| at.as_second() > 0),
        "page": shown.page, "pages": shown.pages, "total": shown.total,
        "images": shown.images.iter().map(image_json).collect::<Vec<_>>(),
        "unmatched": shown.unmatched.iter().map(|repository| json!({
            "source": repository.source.to_string(), "tags": repository.tags,
        })).collect::<Vec<_>>(),
        "unlisted": shown.repositories.iter().map(repository_json).collect::<Vec<_>>(),
    });
    if let (Value::Object(value), Value::Object(more)) = (&mut value, more) {
        value.extend(more);
    }
    value
}

fn image_json(image: &ShownImage) -> Value {
    let (view, facts) = (&image.view, image.facts.as_deref());
    json!({
        "source": view.source.to_string(),
        "destination": view.key.to_string(),
        "state": image.state(),
        "digest": image.digest(),
        "size": facts.map(|facts| facts.size),
        "platforms": facts.map(|facts| texts(&facts.platforms)),
        "created": facts.and_then(|facts| facts.created),
        "sparse": view.sparse,
        "checked": view.looked,
        "error": image.error(),
        "attempts": view.status.attempts,
        "nextTry": view.status.next_try,
    })
}

fn texts(platforms: &[Platform]) -> Vec<String> {
    platforms.iter().map(ToString::to_string).collect()
}

fn repository_json(repository: &RepositoryView) -> Value {
    let error = match &repository.status.state {
        coral_mirror::ImageState::Failing(error) | coral_mirror::ImageState::Error(error) => {
            Some(error)
        }
        _ => None,
    };
    json!({
        "source": repository.source.to_string(),
        "error": error,
        "attempts": repository.status.attempts,
        "nextTry": repository.status.next_try,
    })
}
