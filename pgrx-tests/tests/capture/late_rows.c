/*
 * Runs the statement of the setting late_rows.statement in a pre-commit callback, as extensions do that keep something up
 * to date at the end of a transaction.
 */
#include "postgres.h"
#include "access/xact.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "utils/guc.h"
#include "utils/snapmgr.h"

PG_MODULE_MAGIC;

static char *statement = NULL;
static bool running = false;

static void
at_end(XactEvent event, void *arg)
{
	if ((event != XACT_EVENT_PRE_COMMIT && event != XACT_EVENT_PRE_PREPARE) || running || statement == NULL ||
		statement[0] == '\0')
		return;
	running = true;
	PG_TRY();
	{
		SPI_connect();
		PushActiveSnapshot(GetTransactionSnapshot());
		SPI_execute(statement, false, 0);
		PopActiveSnapshot();
		SPI_finish();
	}
	PG_FINALLY();
	{
		running = false;
	}
	PG_END_TRY();
}

void
_PG_init(void)
{
	DefineCustomStringVariable("late_rows.statement", "Run before every commit.", NULL, &statement, "", PGC_USERSET, 0,
							   NULL, NULL, NULL);
	RegisterXactCallback(at_end, NULL);
}
