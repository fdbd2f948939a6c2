//! Pages of other sites must not decide anything in the name of somebody whose browser shows them: a browser sends JSON to
//! another site only after asking, and says from where a page is.

use axum::http::{HeaderMap, header};

use crate::http::problem::Problem;

/// Fails for a request that may come from a page of another site.
pub(crate) fn check(headers: &HeaderMap) -> Result<(), Problem> {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let content_type = text(header::CONTENT_TYPE).unwrap_or_default();
    let essence = content_type.split(';').next().unwrap_or_default().trim();
    if !essence.eq_ignore_ascii_case("application/json") {
        return Err(Problem::not_json());
    }
    if !headers.contains_key(header::ORIGIN) {
        return Ok(());
    }
    let origin = text(header::ORIGIN).and_then(|origin| origin.split_once("://"));
    let here = text(header::HOST);
    let is_here = match (origin, here) {
        (Some((_, origin)), Some(host)) => origin.eq_ignore_ascii_case(host),
        _ => false,
    };
    match is_here {
        true => Ok(()),
        false => Err(Problem::other_site()),
    }
}

/// Whether `host`, with or without a port, is this machine: another name may have been pointed here for a moment.
pub(crate) fn is_loopback(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    let name = name.trim_start_matches('[').trim_end_matches(']');
    let address = name.parse::<std::net::IpAddr>();
    name.eq_ignore_ascii_case("localhost") || address.is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passes(headers: &[(header::HeaderName, &str)]) -> bool {
        let headers = headers
            .iter()
            .map(|(name, value)| (name.clone(), value.parse().unwrap()));
        check(&headers.collect()).is_ok()
    }

    #[test]
    fn pages_of_other_sites_are_refused() {
        let json = (header::CONTENT_TYPE, "application/json; charset=utf-8");
        let host = (header::HOST, "127.0.0.1:8480");
        assert!(passes(&[json.clone(), host.clone()]));
        assert!(!passes(std::slice::from_ref(&host)));
        let form = (header::CONTENT_TYPE, "text/plain");
        assert!(!passes(&[form, host.clone()]));
        for (origin, is_here) in [
            ("http://127.0.0.1:8480", true),
            ("http://127.0.0.1:8481", false),
            ("https://example.org", false),
            ("null", false),
        ] {
            let origin = (header::ORIGIN, origin);
            let headers = [json.clone(), host.clone(), origin];
            assert_eq!(passes(&headers), is_here, "{headers:?}");
        }
    }

    #[test]
    fn this_machine_has_several_names() {
        for name in [
            "localhost",
            "LOCALHOST:80",
            "127.0.0.2:1",
            "[::1]:8480",
            "[::1]",
        ] {
            assert!(is_loopback(name), "{name}");
        }
        for name in [
            "localhost.example.org",
            "10.0.0.1:80",
            "127.0.0.1.example.org",
        ] {
            assert!(!is_loopback(name), "{name}");
        }
    }
}
