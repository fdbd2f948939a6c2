//! What people decide in forms: by mouse, by keyboard alone, and without scripts.

use pg_cdc_tests::browser::{Browser, BrowserLook};
use pg_cdc_tests::wait_until;
use pg_cdc_tests::webhook_receiver::Reply;

use crate::scene::{NAME, TIMEOUT, scene};

/// Goes from field to field until an element of an id has the focus.
fn tab_to(browser: &Browser, id: &str) {
    const TAB: &str = "\u{e004}";
    for _ in 0..80 {
        browser.press(TAB);
        if browser.script("return document.activeElement.id") == id {
            let outline =
                browser.script("return getComputedStyle(document.activeElement).outlineStyle");
            assert_ne!(outline, "none", "the focus of {id} is seen");
            return;
        }
    }
    panic!("no way to {id} by keyboard");
}

#[test]
fn a_dead_letter_is_left_out_by_keyboard_alone() {
    let scene = scene();
    let id = scene.refused_event(21);
    let browser = scene.logged_in(BrowserLook::WIDE);
    scene.open(&browser, &format!("/dead-letters/history/{id}"), &id);
    browser.press("\u{e004}");
    let first = browser.script("return document.activeElement.textContent");
    assert_eq!(first, "Skip to content");
    tab_to(&browser, "skip-reason");
    browser.press("a test\u{e007}");
    browser.wait_for(".notice", &format!("Event {id} of history"));
    wait_until("the event to be left out", TIMEOUT, || {
        let row = format!("{NAME}.public.customer");
        let told = scene.sink.ask_history(&[&row, "21"]);
        let told = String::from_utf8_lossy(&told.stderr).into_owned();
        told.contains("1 skipped").then_some(()).ok_or(told)
    });
    scene.open(&browser, "/dead-letters", "Dead letters");
    assert!(!browser.texts("tbody").concat().contains(&id));
}

#[test]
fn a_dead_letter_is_edited_without_scripts() {
    let scene = scene();
    let id = scene.refused_event(22);
    let browser = scene.logged_in(BrowserLook::WITHOUT_SCRIPTS);
    scene.open(&browser, "/dead-letters?sink=history", "Dead letters");
    browser.click(&format!("a[href$='{id}']"));
    browser.wait_for("h1", &id);
    // As it is, it is refused again.
    browser.click("#retry");
    browser.wait_for(".notice", &format!("Event {id} of history"));
    wait_until("the event to be refused again", TIMEOUT, || {
        scene.open(&browser, &format!("/dead-letters/history/{id}"), &id);
        let facts = browser.texts(".facts dd");
        let is_again = facts.iter().any(|fact| fact == "parks its key");
        (is_again && facts.contains(&"2".to_owned()))
            .then_some(())
            .ok_or(format!("{facts:?}"))
    });
    browser.fill("#edit-reason", "nothing");
    browser.click("#edit");
    browser.wait_for("main", "no value is another one");
    scene.open(&browser, &format!("/dead-letters/history/{id}"), &id);
    browser.fill("input[name='after.city']", "\"Chur\"");
    browser.fill("#edit-reason", "a typo");
    browser.click("#edit");
    browser.wait_for(".notice", &format!("Event {id} of history"));
    wait_until("the edited row", TIMEOUT, || {
        let found = scene
            .sink
            .ask_history(&[&format!("{NAME}.public.customer"), "22"]);
        let told = String::from_utf8_lossy(&found.stderr).into_owned();
        found.status.success().then_some(()).ok_or(told)
    });
    scene.open(
        &browser,
        &format!("/history/{NAME}.public.customer/22"),
        "id=22",
    );
    browser.wait_for("#as-of", "Chur");
    browser.wait_for("#as-of", "edited by ann");
}

#[test]
fn effects_are_tried_again_and_left_out() {
    let scene = scene();
    let (retried, skipped) = (scene.waiting_effect(31), scene.waiting_effect(32));
    let browser = scene.logged_in(BrowserLook::WIDE);
    scene.open(&browser, "/effects", "Effects");
    browser.click(&format!("a[href$='{retried}']"));
    browser.wait_for("h1", &retried);
    browser.click("#retry");
    browser.wait_for(".notice", "retry of the effect");
    scene.receiver.answer(|request| {
        let body = String::from_utf8_lossy(&request.body).into_owned();
        match body.contains("Quinn") || !body.contains("\"name\":\"Q") {
            true => Reply::Status(200),
            false => Reply::Status(503),
        }
    });
    scene.open(&browser, &format!("/effects/welcome/{retried}"), &retried);
    browser.click("#retry");
    browser.wait_for(".notice", "retry of the effect");
    wait_until("the request", TIMEOUT, || {
        let done = scene.receiver.done_ids();
        done.contains(&retried)
            .then_some(())
            .ok_or(done.len().to_string())
    });
    scene.open(&browser, &format!("/effects/welcome/{skipped}"), &skipped);
    browser.fill("#skip-reason", "too late");
    browser.click("#skip");
    browser.wait_for(".notice", "skip of the effect");
    let letters = format!("/topics/{NAME}.public.customer.dlq");
    scene.open(&browser, &letters, "customer.dlq");
    browser.wait_for("#records", "skipped by ann: too late");
}
