//! What events hold is text, wherever it is shown.

use pg_cdc_tests::browser::BrowserLook;

use crate::scene::{HOSTILE, NAME, scene};

#[test]
fn nothing_that_comes_from_events_becomes_a_part_of_a_page() {
    let scene = scene();
    let browser = scene.logged_in(BrowserLook::WIDE);
    let customer = format!("{NAME}.public.customer");
    let of_key: String = HOSTILE.bytes().map(|byte| format!("%{byte:02X}")).collect();
    let strange_table =
        format!("/history/{NAME}.public.-x3cscript-x3ealert-x281-x29-x3c-x2fscript-x3e");
    for (path, shows_it) in [
        ("/".to_owned(), false),
        ("/history".to_owned(), false),
        (format!("/history/{customer}?where=id=9"), true),
        (format!("/history/{customer}?show=changes&where=id=9"), true),
        (format!("/history/{customer}/9"), true),
        (format!("{strange_table}/{of_key}"), true),
        (strange_table, true),
        ("/models/clients/9".to_owned(), true),
        ("/models/clients".to_owned(), false),
        (format!("/topics/{customer}?key=9"), true),
        ("/topics?pattern=*script*".to_owned(), false),
        (format!("/statistics/sales?group.country={of_key}"), false),
        (format!("/history/{customer}?where={of_key}"), false),
        (format!("/models/clients/{of_key}"), true),
        (format!("/topics/{of_key}"), true),
        (format!("/{of_key}"), false),
    ] {
        browser.go(&scene.address(&path));
        browser.wait_for("h1", "");
        let seen = browser.script(
            "return [document.title, document.scripts.length, document.images.length, document.querySelectorAll('main').length]",
        );
        assert!(
            !seen[0].as_str().expect("a title").starts_with("hacked"),
            "{path}: {seen}"
        );
        assert_eq!(
            (&seen[1], &seen[2], &seen[3]),
            (&1.into(), &0.into(), &1.into()),
            "{path}"
        );
        let text = browser.script("return document.body.textContent");
        let text = text.as_str().expect("a text");
        if shows_it {
            assert!(text.contains("<script>document.title="), "{path}: {text}");
        }
    }
}
