//! Everything between and around both databases is killed, on servers of their own.

use std::time::Instant;

use pg_cdc_tests::bed::Ports;
use pg_cdc_tests::{TestBed, port};

use super::company::Company;
use super::instances::without_rules;
use super::load::Load;
use crate::outcomes::Outcomes;

/// Looks at what is left of the rows after each of the servers was killed.
pub(super) fn check(outcomes: &mut Outcomes<'_>) {
    outcomes.check(
        "source, Kafka and target killed (SIGKILL) under load, on servers of their own: equal",
        || {
            let bed = TestBed::prepare(Ports::free(), &[], &[]);
            killed(&bed)
        },
    );
}

fn killed(bed: &TestBed) -> String {
    let company = Company::found(bed);
    let first = company.start_instance(port::free());
    let second = company.start_instance(port::free());
    company.wait_until_applied();
    let load = Load::start_anew_after_errors(&company);
    let kill_target = || {
        bed.target().kill();
        bed.target().start();
    };
    let kill_kafka = || {
        bed.kafka().kill();
        bed.kafka().start();
    };
    let kill_source = || {
        bed.source().kill();
        bed.source().start();
    };
    let servers: [(&str, &dyn Fn()); 3] = [
        ("target", &kill_target),
        ("Kafka", &kill_kafka),
        ("source", &kill_source),
    ];
    let went_on = servers.map(|(name, kill)| {
        company.wait_for_progress();
        let start = Instant::now();
        kill();
        company.wait_for_progress();
        format!("{name} {:.1} s", start.elapsed().as_secs_f64())
    });
    let changes = load.end();
    let equal = company.assert_equal_but_held();
    second.stop();
    format!(
        "rows came again after {}; {changes} changes; {equal}, none without rules: {}",
        went_on.join(", "),
        without_rules(&company, &first)
    )
}
