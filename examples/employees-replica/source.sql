-- The source: psql -U postgres -f source.sql on the server with pg_cdc.
\set ON_ERROR_STOP on

CREATE ROLE hr LOGIN;
CREATE ROLE hr_monitor LOGIN IN ROLE pg_monitor;
CREATE DATABASE hr OWNER hr;
\connect hr
CREATE EXTENSION pg_cdc;

SET ROLE hr;
-- No constraint refuses what the rules in companion-sink.toml refuse: this database is not ours to change.
CREATE TABLE employees (
    emp_id     integer PRIMARY KEY,
    first_name text NOT NULL,
    last_name  text NOT NULL,
    dob        date NOT NULL,
    city       text,
    salary     numeric(10, 2) NOT NULL
);

CREATE FUNCTION any_of(names text[]) RETURNS text
LANGUAGE sql VOLATILE AS $$ SELECT names[1 + floor(random() * cardinality(names))] $$;
CREATE FUNCTION any_first_name() RETURNS text
LANGUAGE sql VOLATILE AS $$ SELECT any_of('{Ada,Ben,Cleo,Dan,Eva,Finn,Gina,Hugo,Ida,Jan,Kim,Lea,Max,Nora,Otto,Pia}') $$;
CREATE FUNCTION any_last_name() RETURNS text
LANGUAGE sql VOLATILE AS $$ SELECT any_of('{Meier,Keller,Frei,Kunz,Roth,Vogt,Blum,Graf,Hess,Jost,Lang,Moser}') $$;
CREATE FUNCTION any_city() RETURNS text
LANGUAGE sql VOLATILE AS $$ SELECT any_of('{Basel,Bern,Chur,Genf,Luzern,Sion,Thun,Zug}') $$;
CREATE FUNCTION any_date_of_birth() RETURNS date
LANGUAGE sql VOLATILE AS $$ SELECT date '1960-01-01' + (random() * 15000)::integer $$;
CREATE FUNCTION any_salary() RETURNS numeric
LANGUAGE sql VOLATILE AS $$ SELECT round((3000 + random() * 7000)::numeric, 2) $$;

-- Who is there already.
INSERT INTO employees
SELECT n, any_first_name(), any_last_name(), any_date_of_birth(), any_city(), any_salary() FROM generate_series(1, 10000) AS n;

-- Random inserts, updates and deletes, each a transaction of its own. One in 500 breaks a rule, of 50 employees only:
-- a sink that is refused more than a hundred a minute takes that for a fault of the target.
CREATE PROCEDURE change_employees(changes integer, per_second integer DEFAULT 300)
LANGUAGE plpgsql AS $$
DECLARE
    began timestamptz := clock_timestamp();
    id integer;
    kind integer;
BEGIN
    FOR n IN 1..changes LOOP
        id := 1 + floor(random() * 15000);
        kind := floor(random() * 4);
        IF random() < 0.002 THEN
            UPDATE employees SET salary = 10000 + any_salary() WHERE emp_id = id % 50;
        ELSIF kind = 0 THEN
            INSERT INTO employees VALUES (id, any_first_name(), any_last_name(), any_date_of_birth(), any_city(), any_salary())
            ON CONFLICT (emp_id) DO NOTHING;
        ELSIF kind = 1 THEN
            DELETE FROM employees WHERE emp_id = id;
        ELSE
            UPDATE employees SET city = any_city(), salary = any_salary() WHERE emp_id = id;
        END IF;
        COMMIT;
        PERFORM pg_sleep(extract(epoch FROM began + n * interval '1 second' / per_second - clock_timestamp()));
    END LOOP;
END $$;

SELECT cdc_track('employees', snapshot => true);
