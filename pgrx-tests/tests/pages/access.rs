//! Who sees pages, and whose forms are taken.

use pg_cdc_tests::Database;
use pg_cdc_tests::browser::BrowserLook;
use pg_cdc_tests::companion_sink::Plan;

use crate::scene::{NAME, scene};

#[test]
fn people_log_in_with_the_token_or_a_code_and_out() {
    let scene = scene();
    let browser = scene.browser(BrowserLook::WIDE);
    // As /v1/status.
    scene.open(&browser, "/", "Flow");
    assert!(browser.texts("a[href^='/topics']").is_empty());
    let wanted = format!("/history/{NAME}.public.customer/1");
    scene.open(&browser, &wanted, "Log in");
    for wrong in [
        "x",
        "0123456789012345678901234567890123456789012345678901234567890123",
    ] {
        browser.fill("input[name=token]", wrong);
        browser.click("button.primary");
        browser.wait_for(".error", "That is not the token.");
    }
    browser.fill("input[name=token]", &scene.sink.own_token());
    browser.click("button.primary");
    browser.wait_for("h1", "id=1");
    assert!(
        browser.address().ends_with(&wanted),
        "{}",
        browser.address()
    );
    assert_eq!(
        browser.script("return document.cookie"),
        "",
        "no script has the cookie"
    );
    let stored = browser.script("return localStorage.length + sessionStorage.length");
    assert_eq!(stored, 0);
    // Pages of no other site that is led elsewhere.
    browser.click("header .quiet");
    browser.wait_for("h1", "Log in");
    scene.open(&browser, "/dead-letters", "Log in");
    let link = scene.sink.run_command(&["page"]);
    browser.go(&format!("{}&next=//example.org/", link.trim()));
    browser.click("button.primary");
    browser.wait_for("h1", "Flow");
    assert!(browser.address().starts_with(&scene.sink.http_url()));
    let other = scene.browser(BrowserLook::WITHOUT_SCRIPTS);
    other.go(link.trim());
    other.click("button.primary");
    other.wait_for(".error", "That code was used");
}

/// The beginning of an answer.
fn head(answer: &str) -> &str {
    answer.split("\r\n\r\n").next().unwrap_or_default()
}

/// Sends a form as a browser does, and what the test says besides.
fn send_form(path: &str, headers: &[&str], body: &str) -> String {
    let form = "Content-Type: application/x-www-form-urlencoded";
    scene().sink.post(path, &[&[form], headers].concat(), body)
}

#[test]
fn forms_of_other_sites_and_of_no_session_change_nothing() {
    let scene = scene();
    let id = scene.refused_event(23);
    let host = scene.sink.http_url();
    let skip = format!("/dead-letters/history/{id}/skip");
    let own = format!("Origin: {host}");
    let login = send_form(
        "/login",
        &[&own],
        &format!("token={}", scene.sink.own_token()),
    );
    let login = head(&login);
    assert!(
        login.contains("303") && login.contains("location: /"),
        "{login}"
    );
    let cookie = login
        .lines()
        .find_map(|line| line.strip_prefix("set-cookie: "))
        .expect("a cookie");
    for wanted in ["HttpOnly", "SameSite=Strict", "Path=/"] {
        assert!(cookie.contains(wanted), "{cookie}");
    }
    let cookie = format!("Cookie: {}", cookie.split(';').next().expect("its value"));
    let page = scene.sink.ask(&format!(
        "GET /dead-letters/history/{id} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n{cookie}\r\n\r\n"
    ));
    has_its_guards(head(&page));
    let secret = page
        .split("name=\"secret\" value=\"")
        .nth(1)
        .expect("a form");
    let secret = &secret[..64];
    let body = format!("secret={secret}&reason=x");
    for (headers, body, status) in [
        // Nobody says from where it comes.
        (vec![&*cookie], &*body, 403),
        (vec![&*cookie, "Origin: null"], &*body, 403),
        (vec![&*cookie, "Origin: https://example.org"], &*body, 403),
        (vec![&*cookie, "Origin: http://127.0.0.1:1"], &*body, 403),
        (
            vec![&*cookie, &*own, "Sec-Fetch-Site: cross-site"],
            &*body,
            403,
        ),
        (
            vec![&*cookie, &*own, "Sec-Fetch-Site: same-site"],
            &*body,
            403,
        ),
        // Without the session, its secret, or the reason.
        (vec![&*own], &*body, 403),
        (vec![&*cookie, &*own], "reason=x", 403),
        (vec![&*cookie, &*own], "secret=x&reason=x", 403),
        (vec![&*cookie, &*own], &body[..body.len() - 1], 400),
    ] {
        let answer = send_form(&skip, &headers, body);
        let wanted = format!("HTTP/1.1 {status}");
        assert!(answer.starts_with(&wanted), "{headers:?} {body}: {answer}");
    }
    the_cookie_is_for_pages_alone(&cookie);
    // A real browser, with a page of nobody's.
    let browser = scene.logged_in(BrowserLook::WIDE);
    let address = scene.address(&skip);
    browser.go(&format!(
        "data:text/html,<form method=post action={address}><input name=secret value={secret}><input name=reason value=x><button>win</button></form>"
    ));
    browser.click("button");
    // The cookie does not come along.
    browser.wait_for("main", "not of this session");
    assert_eq!(scene.refused_event(23), id, "it is there still");
}

fn the_cookie_is_for_pages_alone(cookie: &str) {
    let scene = scene();
    let asked = scene.sink.ask(&format!(
        "GET /v1/dlq HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n{cookie}\r\n\r\n"
    ));
    assert!(asked.starts_with("HTTP/1.1 401"), "{asked}");
    let nowhere = scene.sink.get("/v1/nowhere");
    let is_json = head(&nowhere).contains("application/problem+json");
    assert!(nowhere.starts_with("HTTP/1.1 404") && is_json, "{nowhere}");
    let named = scene
        .sink
        .ask("GET /login HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n");
    assert!(named.starts_with("HTTP/1.1 403"), "{named}");
}

/// What browsers are told about every page.
fn has_its_guards(head: &str) {
    for wanted in [
        "content-security-policy: default-src 'self'",
        "frame-ancestors 'none'",
        "x-content-type-options: nosniff",
        "cache-control: no-store",
    ] {
        assert!(head.contains(wanted), "{head}");
    }
}

#[test]
fn with_a_token_file_nothing_is_open_and_a_proxy_may_have_tls() {
    let scene = scene();
    let file = scene.bed.path("pages-token");
    std::fs::write(&file, "a long random text\n").expect("the token");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(&file, mode).expect("its mode");
    let database = Database::of(scene.bed, NAME);
    let sink = scene.bed.companion_sink(Plan {
        name: "guarded".to_owned(),
        mongo_database: "guarded".to_owned(),
        http_token_file: Some(file),
        ..database.plan_companion_sink()
    });
    sink.start_only(&["history"]);
    let ask = |path: &str, more: &str| {
        sink.ask(&format!(
            "GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n{more}\r\n"
        ))
    };
    let flow = ask("/", "");
    let to_login = flow.starts_with("HTTP/1.1 303") && flow.contains("location: /login?next=%2F");
    assert!(to_login, "{flow}");
    let events = ask("/flow/events", "Accept: text/event-stream\r\n");
    assert!(events.starts_with("HTTP/1.1 401"), "{events}");
    for (token, status) in [("x", "401"), ("a+long+random+text", "303")] {
        // As nginx does, which has another name and TLS.
        let headers = [
            "Content-Type: application/x-www-form-urlencoded",
            "Origin: https://cdc.example.org",
            "Sec-Fetch-Site: same-origin",
        ];
        let login = sink.post("/login", &headers, &format!("token={token}&next=/topics"));
        assert!(login.starts_with(&format!("HTTP/1.1 {status}")), "{login}");
        let is_in = head(&login).contains("; Secure") && login.contains("location: /topics");
        assert_eq!(is_in, status == "303", "{login}");
    }
    let link = sink.run_command(&["page"]);
    assert!(link.starts_with(&sink.http_url()), "{link}");
}
