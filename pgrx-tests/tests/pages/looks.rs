//! Every page, at a desk, at night, on a telephone, and without scripts. `PG_CDC_SCREENSHOTS` names a folder for what they look
//! like.

use pg_cdc_tests::browser::BrowserLook;

use crate::scene::{NAME, scene};

/// Name of a screenshot, address, heading.
fn pages(refused: &str, effect: &str) -> Vec<(&'static str, String, String)> {
    let topic = |table: &str| format!("{NAME}.public.{table}");
    [
        ("flow", "/".to_owned(), "Flow".to_owned()),
        ("tables", "/history".to_owned(), "History".to_owned()),
        (
            "rows",
            format!("/history/{}", topic("customer")),
            topic("customer"),
        ),
        (
            "changes",
            format!("/history/{}?show=changes", topic("customer")),
            topic("customer"),
        ),
        (
            "row",
            format!("/history/{}/1", topic("customer")),
            "id=1".to_owned(),
        ),
        ("models", "/models".to_owned(), "Read models".to_owned()),
        ("model", "/models/orders".to_owned(), "orders".to_owned()),
        ("document", "/models/orders/7".to_owned(), "7".to_owned()),
        ("figures", "/statistics".to_owned(), "Statistics".to_owned()),
        (
            "statistics",
            "/statistics/sales?measure=revenue".to_owned(),
            "sales".to_owned(),
        ),
        (
            "statistics-of-one",
            "/statistics/sales?measure=revenue&group.country=CH".to_owned(),
            "sales".to_owned(),
        ),
        (
            "dead-letters",
            "/dead-letters".to_owned(),
            "Dead letters".to_owned(),
        ),
        (
            "dead-letter",
            format!("/dead-letters/history/{refused}"),
            refused.to_owned(),
        ),
        ("effects", "/effects".to_owned(), "Effects".to_owned()),
        (
            "effect",
            format!("/effects/welcome/{effect}"),
            effect.to_owned(),
        ),
        ("topics", "/topics".to_owned(), "Topics".to_owned()),
        (
            "topic",
            format!("/topics/{}", topic("customer")),
            topic("customer"),
        ),
        (
            "error",
            "/history/nothing".to_owned(),
            "Not found".to_owned(),
        ),
    ]
    .into()
}

#[test]
fn every_page_is_whole_at_a_desk_at_night_on_a_telephone_and_without_scripts() {
    let scene = scene();
    // These two stay undecided.
    let (refused, effect) = (scene.refused_event(24), scene.waiting_effect(33));
    let browser = scene.logged_in(BrowserLook::WIDE);
    for (look_name, look) in [
        ("light", BrowserLook::WIDE),
        ("dark", BrowserLook::DARK),
        ("telephone", BrowserLook::TELEPHONE),
        ("no-scripts", BrowserLook::WITHOUT_SCRIPTS),
    ] {
        browser.set(look);
        for (name, path, heading) in pages(&refused, &effect) {
            scene.open(&browser, &path, &heading);
            let wider = "return document.documentElement.scrollWidth - document.documentElement.clientWidth";
            let wider = browser.script(wider);
            assert_eq!(wider, 0, "{look_name} {path} is wider than its window");
            let unnamed = "return [...document.querySelectorAll('input:not([type=hidden]), select, textarea')]
                .filter(field => !field.labels.length).length";
            assert_eq!(browser.script(unnamed), 0, "{path}: fields without a label");
            if look.has_scripts {
                let file = scene.screenshots().join(format!("{name}-{look_name}.png"));
                browser.screenshot(&file);
            }
        }
        let ground = browser.script("return getComputedStyle(document.body).backgroundColor");
        let ground = ground.as_str().expect("a colour").to_owned();
        assert_eq!(
            ground == "rgb(18, 20, 23)",
            look.is_dark,
            "{look_name}: {ground}"
        );
    }
    browser.set(BrowserLook::WIDE);
    browser.click("header .quiet");
    browser.wait_for("h1", "Log in");
    for (look_name, look) in [
        ("light", BrowserLook::WIDE),
        ("telephone", BrowserLook::TELEPHONE),
    ] {
        browser.set(look);
        browser.screenshot(&scene.screenshots().join(format!("login-{look_name}.png")));
    }
}
