//! employees-replica: a table in two databases, what rules hold back, and instances that come, go and are killed.

mod company;
mod crashes;
mod held;
mod instances;
mod load;
mod second;

use pg_cdc_tests::companion_sink::CompanionSink;
use pg_cdc_tests::{TestBed, parts, wait_until};

use crate::bed;
use crate::example::{Example, Kind, Look};
use crate::outcomes::Outcomes;
use company::{Company, TIMEOUT};

/// The example.
pub(crate) const KIND: Kind = Kind {
    name: "employees-replica",
    what: "a table in two databases within a second, with rules, dead letters and several instances",
    start,
};

struct EmployeesReplica {
    company: Company<'static>,
    first: CompanionSink,
}

fn start(bed: &'static TestBed) -> Box<dyn Example> {
    let company = Company::found(bed);
    let first = company.start_instance(bed::port("PG_CDC_HTTP_PORT", 18480));
    let mut replica = company.replica();
    wait_until("the rows that were there", TIMEOUT, || {
        let rows = replica.query_one("SELECT count(*) FROM employees", &[]);
        match rows.map(|row| row.get(0)) {
            Ok(company::FIRST_EMPLOYEES) => Ok(()),
            rows => Err(format!("{rows:?}")),
        }
    });
    Box::new(EmployeesReplica { company, first })
}

impl Example for EmployeesReplica {
    fn look(&self) -> Vec<Look> {
        let bed = self.company.bed();
        let psql = |role: &str, port: u16, database: &str| {
            format!("psql -h localhost -p {port} -U {role} {database}")
        };
        let config = self.first.config_file();
        vec![
            Look::at("the source", psql("hr", bed.source().port(), "hr")),
            Look::at(
                "the replica",
                psql("hr_replica", bed.target().port(), "hr_replica"),
            ),
            Look::at(
                "rows, good and bad",
                format!(
                    "{} -f examples/employees-replica/play.sql",
                    psql("hr", bed.source().port(), "hr")
                ),
            ),
            Look::at(
                "for companion-sink",
                format!("export COMPANION_SINK_CONFIG={}", config.display()),
            ),
            Look::at(
                "its rules read again",
                format!("kill -HUP {}", self.first.pid()),
            ),
            Look::at(
                "lag, state, dead letters",
                format!("{} status", parts::companion_sink().display()),
            ),
            Look::at(
                "the same over HTTP",
                format!("{}/v1/status", self.first.http_url()),
            ),
        ]
    }

    fn check(&mut self, outcomes: &mut Outcomes<'_>) {
        let (company, first) = (&self.company, &self.first);
        outcomes.check("rows that were there came by a snapshot", || {
            company.assert_snapshot()
        });
        outcomes.check(
            "each of 10 000 inserts, updates and deletes is in the replica within a second",
            || second::measure(company),
        );
        held::check(company, first, outcomes);
        instances::check(company, first, outcomes);
        crashes::check(outcomes);
    }
}
