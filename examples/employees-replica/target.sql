-- The target: psql -U postgres -f target.sql on the other server. companion-sink makes the table.
\set ON_ERROR_STOP on

CREATE ROLE hr_replica LOGIN;
CREATE DATABASE hr_replica OWNER hr_replica;
