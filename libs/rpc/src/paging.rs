//! Lists, page by page. A token names the query that it belongs to, and the last item before the page.

use crate::{ApiError, Reason};

/// The item after which a page begins; empty at the start. `query`: everything that the page depends on.
///
/// # Errors
/// `PAGE_TOKEN_INVALID`: the token is of another query.
pub fn after_token<'a>(token: &'a str, query: &str) -> Result<&'a str, ApiError> {
    if token.is_empty() {
        return Ok("");
    }
    let after = token.strip_prefix(query).and_then(|rest| rest.strip_prefix('\n'));
    after.ok_or_else(|| ApiError::new(Reason::PageTokenInvalid, "the page token belongs to another query; start over"))
}

/// The first `size` of what was found, and the token of the page after them, empty when there is none. `key`: what names
/// an item in a token.
pub fn page<T>(mut found: Vec<T>, size: usize, query: &str, key: impl Fn(&T) -> String) -> (Vec<T>, String) {
    let more = found.len() > size;
    found.truncate(size);
    let last = found.last().map(key).unwrap_or_default();
    (found, if more { format!("{query}\n{last}") } else { String::new() })
}

/// Items on a page; 0 asks for the default.
///
/// # Errors
/// `FIELD_INVALID`: fewer than 0 were asked for.
pub fn page_size(asked: i32, default: usize, most: usize) -> Result<usize, ApiError> {
    match usize::try_from(asked) {
        Ok(0) => Ok(default),
        Ok(size) => Ok(size.min(most)),
        Err(_) => Err(ApiError::field("page_size", "must be at least 0")),
    }
}
