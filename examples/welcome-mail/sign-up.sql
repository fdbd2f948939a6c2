-- The table of customers, two of whom are there already, and who may sign them up. The owner is no superuser.
CREATE ROLE welcome_owner NOLOGIN;
CREATE ROLE sign_up LOGIN;
GRANT CREATE, USAGE ON SCHEMA public TO welcome_owner;

SET ROLE welcome_owner;
CREATE TABLE customer (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name text NOT NULL CONSTRAINT a_customer_has_a_name CHECK (name ~ '\S'),
    email text NOT NULL UNIQUE CONSTRAINT a_customer_has_an_email CHECK (email ~ '^[^@\s]+@[^@\s]+$'),
    city text,
    signed_up_at timestamptz NOT NULL DEFAULT now()
);
GRANT INSERT (name, email, city) ON customer TO sign_up;
INSERT INTO customer (name, email, city, signed_up_at) VALUES
    ('Olga', 'olga@example.org', 'Basel', '2024-05-03 10:00+02'),
    ('Otto', 'otto@example.org', 'Bern', '2025-11-30 23:30+01');

-- snapshot: those who are there are sent as well (op = "r"), for whoever wants to know of all customers.
SELECT cdc_track('customer', snapshot => true);
RESET ROLE;
