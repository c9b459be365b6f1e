//! The order of a list.

use std::cmp::Reverse;

use runtime_core::Listed;

/// Puts the newest first, as the engines' own tools do. Those of one time stay in the order that they
/// have.
pub fn newest_first(listed: &mut [Listed]) {
    listed.sort_by_key(|listed| Reverse(listed.info.created_at));
}
