//! Makes and drops the triggers that are a table's configuration.

use change::code::Code;
use change::options::{Operation, Options};
use change::trouble::Trouble;
use pgrx::prelude::*;
use pgrx::spi::{quote_identifier, quote_literal};

use super::own_trigger::{self, Own};
use super::quiet::quiet;
use super::rights::as_superuser;
use super::table::Table;
use super::{seal, statement, unseen};
use crate::report::Raise;

/// Drops a table's triggers.
pub(crate) fn drop_own_triggers(table: &Table) {
    let _ours = quiet();
    as_superuser(|| {
        for own in Own::ALL {
            // SAFETY: the relation is open while it is read.
            let found = table.read(|relation| unsafe {
                let trigger = &*own.of(relation)?;
                (!trigger.tgisclone).then_some(trigger.tgoid)
            });
            if let Some(trigger) = found {
                unseen::drop_trigger(trigger);
            }
        }
    });
}

/// Makes the triggers that are a table's configuration, anew where they are there.
pub(crate) fn make_triggers(table: &Table, options: &Options) {
    drop_own_triggers(table);
    Own::ALL
        .iter()
        .for_each(|own| refuse_taken_name(table, own.name()));
    // The functions lie where the extension does; triggers name them by that schema, not by search_path.
    let schema = statement::pinned(|| {
        Spi::get_one::<String>(
            "SELECT n.nspname::text FROM pg_catalog.pg_extension e JOIN pg_catalog.pg_namespace n ON n.oid = e.extnamespace WHERE e.extname = 'pg_cdc'",
        )
    });
    let schema = match schema {
        Ok(Some(schema)) => quote_identifier(schema),
        Ok(None) => pgrx::error!("pg_cdc could not find its own schema"),
        Err(error) => pgrx::error!("pg_cdc could not find its own schema: {error}"),
    };
    let events = options.operations.row_events();
    let make = |what: &str, own: Own, definition: &str, arguments: &[String]| {
        let arguments: Vec<String> = arguments.iter().map(quote_literal).collect();
        unseen::run(&format!(
            "CREATE {what} {} AFTER {definition}({})",
            quote_identifier(own.name()),
            arguments.join(", ")
        ));
    };
    let always = |own: Own| {
        // Rows that a subscription applies, and those under session_replication_role = replica, count too.
        unseen::run(&format!(
            "ALTER TABLE {} ENABLE ALWAYS TRIGGER {}",
            table.sql_name(),
            quote_identifier(own.name())
        ));
    };
    let _ours = quiet();
    as_superuser(|| {
        let name = table.sql_name();
        let rows = format!("{events} ON {name} FOR EACH ROW EXECUTE FUNCTION {schema}.cdc_capture");
        let mut arguments = options.arguments();
        make("TRIGGER", Own::Row, &rows, &arguments);
        // The seal is for the trigger as it is there, so it comes second.
        // SAFETY: the relation is open while it is read.
        let made =
            table.read(|relation| unsafe { Own::Row.of(relation).map(|made| (*made).tgoid) });
        let Some(made) = made else {
            pgrx::error!("pg_cdc cannot find the trigger that it made");
        };
        arguments.push(seal::argument(table.oid, made, &arguments));
        make("OR REPLACE TRIGGER", Own::Row, &rows, &arguments);
        always(Own::Row);
        if options.operations.contains(Operation::Truncate) {
            let truncate = format!(
                "TRUNCATE ON {name} FOR EACH STATEMENT EXECUTE FUNCTION {schema}.cdc_capture_truncate"
            );
            make("TRIGGER", Own::Truncate, &truncate, &arguments);
            always(Own::Truncate);
        }
    });
}

/// CDC0115: somebody's own trigger has the name of one of ours.
pub(crate) fn refuse_taken_name(table: &Table, name: &str) {
    if table.read(|relation| own_trigger::named(relation, name).is_some()) {
        Trouble::new(
            Code::TriggerNameTaken,
            format!(
                "table \"{}\" has another trigger named \"{name}\"",
                table.name
            ),
            format!(
                "ALTER TRIGGER {name} ON {} RENAME TO …, or drop it.",
                table.sql_name()
            ),
        )
        .detail("pg_cdc's own triggers have this name.")
        .raise();
    }
}
