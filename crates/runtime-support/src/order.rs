//! Order of a listing.

use std::cmp::Reverse;

use runtime_core::Listed;

/// Sorts a listing by creation time, newest first, like the engines' own tools. The sort is stable.
pub fn newest_first(listed: &mut [Listed]) {
    listed.sort_by_key(|listed| Reverse(listed.info.created_at));
}
