-- The table, who may do what with it, and its topic. An administrator runs it in a database that has the extension pg_cdc.

-- The owner makes and changes the table; the service only works with its rows. Neither is a superuser.
CREATE ROLE crm_owner NOLOGIN;
CREATE ROLE customer_service LOGIN;
GRANT CREATE, USAGE ON SCHEMA public TO crm_owner;

SET ROLE crm_owner;
CREATE TABLE customer (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name text NOT NULL CONSTRAINT a_customer_has_a_name CHECK (name ~ '\S' AND length(name) <= 200),
    email text NOT NULL CONSTRAINT a_customer_has_an_email CHECK (email ~ '^[^@\s]+@[^@\s]+\.[^@\s]+$' AND length(email) <= 254),
    city text CONSTRAINT a_city_has_a_name CHECK (city ~ '\S' AND length(city) <= 100),
    credit_limit numeric(12, 2) NOT NULL DEFAULT 0 CONSTRAINT a_credit_limit_is_not_negative CHECK (credit_limit >= 0),
    created_at timestamptz NOT NULL DEFAULT now()
);
CREATE UNIQUE INDEX an_email_has_one_customer ON customer (lower(email));
GRANT SELECT, DELETE, INSERT (name, email, city, credit_limit), UPDATE (name, email, city, credit_limit) ON customer TO customer_service;

-- A topic whose name does not begin with the database's is for members of cdc_admin to choose.
SET ROLE cdc_admin;
SELECT cdc_track('customer', topic => 'customer_events');
RESET ROLE;
