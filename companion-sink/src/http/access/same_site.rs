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

/// Whether a form was sent from a page of this site: the browser says so, and pages cannot have it say otherwise. It leaves
/// `Sec-Fetch-Site` out where there is no TLS, and a proxy may have put another name into `Host`: one of both must fit.
pub(crate) fn is_own_page(headers: &HeaderMap) -> bool {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let origin = text(header::ORIGIN.as_str()).and_then(|origin| origin.split_once("://"));
    let Some((_, origin)) = origin else {
        return false;
    };
    match text("sec-fetch-site") {
        Some(site) => site == "same-origin",
        None => text(header::HOST.as_str()).is_some_and(|host| origin.eq_ignore_ascii_case(host)),
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
    fn forms_come_from_own_pages() {
        let site = "sec-fetch-site";
        let own = "http://127.0.0.1:8480";
        for (headers, is_own) in [
            (vec![("origin", own)], true),
            (vec![("origin", own), (site, "same-origin")], true),
            (
                vec![("origin", "https://cdc.example"), (site, "same-origin")],
                true,
            ),
            (vec![], false),
            (vec![(site, "same-origin")], false),
            (vec![("origin", "null")], false),
            (vec![("origin", "https://cdc.example")], false),
            (vec![("origin", own), (site, "same-site")], false),
            (vec![("origin", own), (site, "cross-site")], false),
            (vec![("origin", own), (site, "none")], false),
        ] {
            let mut all: HeaderMap = headers
                .iter()
                .map(|(name, value)| {
                    let name = header::HeaderName::from_static(name);
                    (name, value.parse().unwrap())
                })
                .collect();
            all.insert(header::HOST, "127.0.0.1:8480".parse().unwrap());
            assert_eq!(is_own_page(&all), is_own, "{headers:?}");
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
