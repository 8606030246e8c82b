//! Stored and free bytes, and the state of the scrub.

use maud::{Markup, html};

use super::time;
use crate::status_page::Visit;
use crate::status_page::storage::{Scrub, Storage};
use crate::status_page::words::bytes;

/// The section on storage; empty if the registry cannot report it.
pub(super) async fn section(visit: &Visit) -> Markup {
    let (api, reader) = (&visit.pages.api, &visit.reader);
    let Ok(storage) = api.storage(reader).await else {
        return html! {};
    };
    let scrub = api.scrub(reader).await.ok();
    html! {
        section aria-labelledby="storage" {
            h2 id="storage" { "Storage" }
            @if let Some(full) = &storage.full {
                div.notice { p { "Pushes are refused: " (full) "." } }
            }
            dl.counts {
                (space(&storage))
                @if let Some(scrub) = &scrub { (of_scrub(visit, scrub)) }
            }
        }
    }
}

fn space(storage: &Storage) -> Markup {
    let used = storage.stored.saturating_add(storage.uploads);
    let is_full = storage.full.is_some();
    html! {
        div class=@if is_full { "bad" } {
            dt { "Stored" @if !storage.counted { " (still being counted)" } }
            dd { (bytes(used)) @if let Some(limit) = storage.limit { span.of { " of " (bytes(limit)) } } }
        }
        @if let Some(free) = storage.free {
            div class=@if is_full { "bad" } {
                dt { "Free on the disk" }
                dd { (bytes(free)) @if let Some(disk) = storage.disk { span.of { " of " (bytes(disk)) } } }
            }
        }
        @if storage.damaged > 0 {
            div { dt { "Damaged, moved aside" } dd { (bytes(storage.damaged)) } }
        }
    }
}

/// The row `checked` is empty before the first round since the start.
fn of_scrub(visit: &Visit, scrub: &Scrub) -> Markup {
    html! {
        div {
            dt { "Last complete scrub" }
            dd.small {
                @match scrub.last_completed {
                    Some(at) => (time(visit.now, at)),
                    None if scrub.bandwidth == 0 => "never (turned off)",
                    None => "never",
                }
            }
        }
        @if let Some(progress) = scrub.progress { div { dt { "Scrub" } dd { (progress) " %" } } }
        @if scrub.checked_bytes > 0 {
            div { dt { "Checked" } dd { (bytes(scrub.checked_bytes)) } }
            div class=@if scrub.damaged > 0 { "bad" } { dt { "Found damaged" } dd { (scrub.damaged) } }
        }
        @if scrub.missing > 0 {
            div.bad { dt { "Damaged and not restored" } dd { (scrub.missing) } }
        }
    }
}
