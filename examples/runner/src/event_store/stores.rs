//! What becomes of stores when instances come and go.

use pg_cdc_tests::wait_until;

use super::system::{EventStore, PARTITIONS, TIMEOUT};

/// One more takes some partitions; nobody notices.
pub(super) fn joins(example: &mut EventStore) -> String {
    let before = example.list(0, 1000);
    let fourth = example.add_instance();
    let has = wait_until("the fourth to have partitions", TIMEOUT, || {
        let told = example.instance(fourth).ask("GET", "/status", &[]).body;
        let partitions = told["partitions"].as_array().cloned().unwrap_or_default();
        match partitions
            .iter()
            .filter(|partition| partition["serves"] == true)
            .count()
        {
            0 => Err(told.to_string()),
            has => Ok(has),
        }
    });
    example.wait_until_served();
    assert_eq!(example.list(fourth, 1000), before);
    format!("it has {has} of {PARTITIONS} partitions")
}

/// All stop; one starts again, and has everything already.
pub(super) fn restart(example: &mut EventStore) -> String {
    let before = example.list(0, 1000);
    let counted = example.wait_until_served();
    for number in 1..example.instances.len() {
        example.instances[number]
            .running
            .take()
            .expect("it runs")
            .stop();
    }
    // It has all partitions now.
    example.wait_until_served();
    example.instances[0].running.take().expect("it runs").stop();
    example.start_instance(0);
    let status = example.wait_until_served();
    assert_eq!(status.offsets_to_read, 0, "{status:?}");
    assert_eq!(
        (status.accounts, status.events),
        (counted.accounts, counted.events)
    );
    assert_eq!(example.list(0, 1000), before);
    format!(
        "{} accounts and {} events, 0 offsets read",
        status.accounts, status.events
    )
}

/// Its folder is removed while it is down.
pub(super) fn lost_disk(example: &mut EventStore) -> String {
    let before = example.list(0, 1000);
    let counted = example.status();
    example.instances[0].running.take().expect("it runs").kill();
    std::fs::remove_dir_all(example.instances[0].folder.join("store")).expect("the store");
    example.start_instance(0);
    let status = example.wait_until_served();
    assert!(status.offsets_to_read > status.events, "{status:?}");
    assert_eq!(
        (status.accounts, status.events),
        (counted.accounts, counted.events)
    );
    assert_eq!(example.list(0, 1000), before);
    let log = example.instances[0]
        .folder
        .join(format!("account-service-{}.log", example.instances[0].port));
    let log = std::fs::read_to_string(log).expect("the log");
    let line = log
        .lines()
        .rev()
        .find(|line| line.contains("offsets read (100 %)"));
    let line = line.expect("its progress").to_owned();
    for number in 1..example.instances.len() {
        example.start_instance(number);
    }
    example.wait_until_served();
    format!("{} offsets; \"{line}\"", status.offsets_to_read)
}
