//! What every example is to the runner.

use pg_cdc_tests::TestBed;

use crate::outcomes::Outcomes;

/// An example, not started.
pub(crate) struct Kind {
    /// Its folder in `examples/`.
    pub(crate) name: &'static str,
    /// What it is, in half a line.
    pub(crate) what: &'static str,
    /// Starts it on a bed, in databases and topics of its own; panics with what went wrong.
    pub(crate) start: fn(&'static TestBed) -> Box<dyn Example>,
}

/// An example that runs. Dropping it ends its own processes.
pub(crate) trait Example: Send {
    /// What somebody can look at now.
    fn look(&self) -> Vec<Look>;

    /// Does what people would do with it, and looks at each outcome.
    fn check(&mut self, outcomes: &mut Outcomes<'_>);
}

/// Something to look at.
pub(crate) struct Look {
    /// What one sees.
    pub(crate) what: String,
    /// The address for a browser, or a command to copy.
    pub(crate) how: String,
}

impl Look {
    /// Something to look at, and how.
    pub(crate) fn at(what: impl Into<String>, how: impl Into<String>) -> Look {
        Look {
            what: what.into(),
            how: how.into(),
        }
    }
}
