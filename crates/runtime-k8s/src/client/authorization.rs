//! Users, passwords and tokens in headers and URLs.

use http::HeaderValue;
use http::header::InvalidHeaderValue;

/// Returns the header value of a token. It is marked as sensitive.
pub(crate) fn bearer(token: &str) -> std::result::Result<HeaderValue, InvalidHeaderValue> {
    sensitive(&format!("Bearer {token}"))
}

/// Returns the header value of a user and a password. It is marked as sensitive.
pub(crate) fn basic(
    user: &str,
    password: &str,
) -> std::result::Result<HeaderValue, InvalidHeaderValue> {
    use base64::Engine as _;
    let encoded = base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}"));
    sensitive(&format!("Basic {encoded}"))
}

fn sensitive(value: &str) -> std::result::Result<HeaderValue, InvalidHeaderValue> {
    let mut value = HeaderValue::from_str(value)?;
    value.set_sensitive(true);
    Ok(value)
}

/// Splits the user and password from the authority of a URL.
pub(crate) fn user_info(authority: &str) -> (Option<(String, String)>, &str) {
    let Some((user_info, authority)) = authority.rsplit_once('@') else {
        return (None, authority);
    };
    let decode = |text| percent_encoding::percent_decode_str(text).decode_utf8_lossy().into_owned();
    let (user, password) = user_info.split_once(':').unwrap_or((user_info, ""));
    (Some((decode(user), decode(password))), authority)
}
