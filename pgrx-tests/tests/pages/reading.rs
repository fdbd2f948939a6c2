//! What pages show, and what changes while they are open.

use pg_cdc_tests::browser::BrowserLook;
use pg_cdc_tests::statements::run;

use crate::scene::{NAME, scene};

fn customer(more: &str) -> String {
    format!("/history/{NAME}.public.customer{more}")
}

#[test]
fn the_slider_shows_every_version() {
    let scene = scene();
    let browser = scene.logged_in(BrowserLook::WIDE);
    scene.open(&browser, &customer("/1"), "id=1");
    browser.wait_for("#as-of", "Version 5 of 5");
    browser.wait_for("#as-of", "Genève");
    browser.script("document.getElementById('version').focus()");
    browser.press("\u{e012}\u{e012}\u{e012}");
    browser.wait_for("#as-of", "Version 2 of 5");
    browser.wait_for("#as-of", "Bern");
    assert!(
        browser.address().contains("version=2"),
        "{}",
        browser.address()
    );
    let shown = browser.texts("#as-of .before, #as-of .after");
    assert_eq!(shown, ["\"Basel\"", "\"Bern\""]);
    browser.wait_for(".timeline", "credit 100.00 -> 120.00");
    browser.wait_for(".timeline", "bob: moved");
    browser.wait_for("main", "Eva Frei");
    // The same by a form.
    browser.set(BrowserLook::WITHOUT_SCRIPTS);
    scene.open(&browser, &customer("/1?version=3&from=1"), "id=1");
    browser.wait_for("#as-of", "Differences from version 1");
    browser.click(".slider button");
    browser.wait_for("#as-of", "Version 3 of 5");
    browser.click(".timeline li:last-child a");
    browser.wait_for("#as-of", "Version 1 of 5");
}

#[test]
fn rows_changes_documents_and_figures_are_found() {
    let scene = scene();
    let browser = scene.logged_in(BrowserLook::WITHOUT_SCRIPTS);
    scene.open(&browser, "/history", "History");
    browser.click(&format!("a[href$='{NAME}.public.customer']"));
    browser.wait_for("tbody", "id=100");
    assert_eq!(browser.texts("tbody tr").len(), 50);
    browser.click("a[rel=next]");
    browser.wait_for("tbody", "id=170");
    browser.fill("input[name=where]", "city=Genève");
    browser.click(".filter button");
    browser.wait_for("tbody", "Eva Frei");
    assert!(browser.texts("tbody").concat().contains("id=103"));
    assert!(!browser.texts("tbody").concat().contains("Chur"));
    browser.fill("input[name=key]", "1");
    browser.click(".find button");
    browser.wait_for("h1", "id=1");
    scene.open(&browser, &customer("?show=changes&actor=bob"), "customer");
    browser.wait_for("tbody", "city \"Basel\" -> \"Bern\"");
    assert_eq!(browser.texts("tbody tr").len(), 2);
    scene.open(&browser, &customer("?where=nothing"), "That did not work");
    browser.wait_for("main", "CDC1001");

    scene.open(&browser, "/models/orders", "orders");
    browser.fill("input[name=id]", "7");
    browser.click(".filter button");
    browser.wait_for("h1", "7");
    browser.wait_for("tbody", "\"quantity\"");
    scene.open(&browser, "/models/orders?order=id", "orders");
    browser.wait_for("tbody", "2 items");
    browser.click("a[rel=next]");
    browser.wait_for("tbody tr:first-child", "51");
    scene.open(&browser, "/models/orders/12345", "Not found");

    scene.open(&browser, "/statistics", "Statistics");
    browser.click("a[href='/statistics/sales']");
    browser.wait_for("h1", "sales");
    assert_eq!(browser.texts("figure").len(), 3);
    browser.fill("input[name='group.country']", "CH");
    browser.fill("input[name=to]", "2026-11-04");
    browser.click(".filter button");
    browser.wait_for("figcaption", "CH");
    assert_eq!(browser.texts("figure").len(), 1);
    assert_eq!(browser.texts("tbody tr").len(), 2);
    let bars = browser.script("return document.querySelectorAll('rect.bar').length");
    assert_eq!(bars, 2);
}

#[test]
fn what_comes_is_shown_while_a_page_is_open() {
    let scene = scene();
    let browser = scene.logged_in(BrowserLook::WIDE);
    let topic = format!("/topics/{NAME}.public.order_item");
    scene.open(&browser, &topic, "order_item");
    browser.wait_for(".live", "follows what comes");
    assert_eq!(browser.texts("#records > tr").len(), 50);
    let mut source = scene.source();
    run(
        &mut source,
        &[
            "SET cdc.actor = 'carl'",
            "INSERT INTO order_item VALUES (9001, 1, '<b>Sofa</b>', 1, 900)",
        ],
    );
    browser.wait_for("#records > tr:first-child", "<b>Sofa</b>");
    assert_eq!(browser.texts("#records > tr").len(), 51);
    // Filters hold for what comes as well.
    scene.open(&browser, &format!("{topic}?key=9002"), "order_item");
    browser.wait_for(".live", "follows what comes");
    run(
        &mut source,
        &[
            "INSERT INTO order_item VALUES (9003, 1, 'Table', 1, 1)",
            "INSERT INTO order_item VALUES (9002, 1, 'Stool', 1, 1)",
        ],
    );
    browser.wait_for("#records > tr", "Stool");
    assert_eq!(browser.texts("#records > tr").len(), 1);
    browser.set(BrowserLook::WITHOUT_SCRIPTS);
    scene.open(
        &browser,
        &format!("{topic}?op=c&actor=carl&n=2"),
        "order_item",
    );
    browser.wait_for("#records", "Table");
    assert_eq!(browser.texts("#records > tr").len(), 2);

    browser.set(BrowserLook::WIDE);
    scene.open(&browser, "/", "Flow");
    browser.wait_for("#flow", "running");
    let seen = || browser.script("return document.querySelector('#flow table.fold').innerText");
    let before = seen();
    run(&mut source, &["UPDATE order_item SET quantity = 5"]);
    pg_cdc_tests::wait_until("the flow to change", crate::scene::TIMEOUT, || {
        let now = seen();
        (now != before).then_some(()).ok_or(now.to_string())
    });
}
