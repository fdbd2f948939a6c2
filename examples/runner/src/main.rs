//! `./dev demo`: a tour of pg_cdc, or one of the examples, started and left up. `./dev examples`: all examples, each outcome
//! looked at.

mod bed;
mod customer_history;
mod employees_replica;
mod event_store;
mod example;
mod outcomes;
mod place;
mod screen;
mod service;
mod shop_cqrs;
mod tour;
mod welcome_mail;

use std::process::ExitCode;

use pg_cdc_tests::bed::Ports;

use example::Kind;
use outcomes::Outcomes;
use screen::Screen;

/// The examples, in the order in which they are run.
const EXAMPLES: &[Kind] = &[
    customer_history::KIND,
    welcome_mail::KIND,
    employees_replica::KIND,
    event_store::KIND,
    shop_cqrs::KIND,
];

fn help() -> String {
    let examples: String = EXAMPLES
        .iter()
        .map(|kind| format!("  {:<18} {}\n", kind.name, kind.what))
        .collect();
    format!(
        "\
Usage: demo [--once]         a tour: a few customers, one customer's history, and the replica that equals its source
       demo NAME             starts an example and leaves it up until Ctrl-C
       demo --check [NAME…]  starts all examples, or these, looks at what each must do, and ends

Starts PostgreSQL with pg_cdc, Kafka, FerretDB, companion-sink, and what an example needs besides.

  --once   ends then, with one line of JSON as the last one

{examples}"
    )
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let run: Box<dyn Fn(&Screen) -> bool> = match arguments[..] {
        [] => Box::new(|screen| tour::show(screen, false)),
        ["--once"] => Box::new(|screen| tour::show(screen, true)),
        ["-h" | "--help"] => {
            println!("{}", help());
            return ExitCode::SUCCESS;
        }
        ["--check", ref names @ ..] => match kinds(names) {
            Some(kinds) => Box::new(move |screen| check(screen, &kinds)),
            None => return wrong_usage(),
        },
        ref names @ [_] => match kinds(names) {
            Some(kinds) => Box::new(move |screen| show(screen, kinds[0])),
            None => return wrong_usage(),
        },
        _ => return wrong_usage(),
    };
    bed::stop_on_signal();
    let screen = Screen::new();
    bed::say_panics();
    // What panicked has said why.
    let right = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| run(&screen)));
    bed::stop();
    match right {
        Ok(true) => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}

fn wrong_usage() -> ExitCode {
    eprintln!("{}", help());
    ExitCode::from(2)
}

/// The examples of these names, all without any; none when there is no such one.
fn kinds(names: &[&str]) -> Option<Vec<&'static Kind>> {
    if names.is_empty() {
        return Some(EXAMPLES.iter().collect());
    }
    let find = |name: &&str| EXAMPLES.iter().find(|kind| kind.name == *name);
    names.iter().map(find).collect()
}

/// Starts an example, says what to look at, and waits.
fn show(screen: &Screen, kind: &Kind) -> bool {
    let bed = bed::prepare(bed::demo_ports());
    screen.line(format!(" {}: {}", screen.paint("1", kind.name), kind.what));
    let example = screen.wait(kind.name, || (kind.start)(bed));
    screen.line(" Look, in a browser or in another terminal:");
    for look in example.look() {
        screen.line(format!("   {:<28} {}", look.what, look.how));
    }
    screen.line(format!(" examples/{}/README.md says more.", kind.name));
    bed::keep(Box::new(example));
    bed::wait_for_ctrl_c(screen)
}

/// Starts each example and looks at its outcomes.
fn check(screen: &Screen, kinds: &[&Kind]) -> bool {
    let bed = bed::prepare(Ports::free());
    let mut outcomes = Outcomes::new(screen);
    for kind in kinds {
        screen.line(screen.paint("1", kind.name));
        if let Some(mut example) = outcomes.start(kind.name, || (kind.start)(bed)) {
            example.check(&mut outcomes);
        }
    }
    outcomes.close()
}
