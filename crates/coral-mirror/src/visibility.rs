//! Whether everyone may read a repository at its source.

use std::sync::Arc;

use coral_api::Visibility;
use coral_distribution::{Category, Credentials};
use coral_image::ImageRef;

use crate::access::MirrorAccess;
use crate::pace::AskError;

/// Asks the source for an image without a credential, and with the mirror's own where that is
/// refused. `None` says that it cannot be known now: the source is down, limits requests, or does
/// not have the image; what was known before then stays true.
///
/// Where anonymous access finds nothing and the credential does, the source hides what strangers
/// may not read: that is a refusal too.
pub async fn visibility(access: &MirrorAccess, image: &ImageRef) -> Option<Visibility> {
    let stranger = MirrorAccess {
        source_credentials: Arc::new(Credentials::none()),
        ..access.clone()
    };
    match has(&stranger, image).await {
        Ok(true) => return Some(Visibility::Public),
        Ok(false) => {}
        Err(error) if is_refusal(&error) => {}
        Err(_) => return None,
    }
    if access.source_credentials.is_empty() {
        return None;
    }
    let is_read = has(access, image).await.is_ok_and(|has| has);
    is_read.then_some(Visibility::Private)
}

async fn has(access: &MirrorAccess, image: &ImageRef) -> Result<bool, AskError> {
    let source = access.source(image.repository());
    let version = image.version();
    let found = source.check(|| source.endpoint.head(&version)).await?;
    Ok(found.is_some())
}

fn is_refusal(error: &AskError) -> bool {
    let AskError::Request(error) = error else {
        return false;
    };
    matches!(
        error.category(),
        Category::Unauthorized | Category::Forbidden
    )
}
