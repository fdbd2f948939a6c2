-- Something to look at: psql -h localhost -p 15432 -U hr -f play.sql hr, as often as you like.
\set ON_ERROR_STOP on
\set QUIET on

\echo 'Nora comes and moves, number 42 leaves: in the replica at once.'
INSERT INTO employees VALUES (20001, 'Nora', 'Blum', '1990-05-17', 'Basel', 7200)
ON CONFLICT (emp_id) DO UPDATE SET city = 'Basel';
UPDATE employees SET city = 'Bern' WHERE emp_id = 20001;
DELETE FROM employees WHERE emp_id = 42;

\echo 'Three that the rules hold, and what is said of them later, which waits:'
\echo '  Tim is born in 2009. A slip: it was 1999.'
INSERT INTO employees VALUES (20002, 'Tim', 'Frei', '2009-03-02', 'Chur', 3100)
ON CONFLICT (emp_id) DO UPDATE SET dob = '2009-03-02';
UPDATE employees SET dob = '1999-03-02' WHERE emp_id = 20002;

\echo '  Ada earns 12500. She moves.'
INSERT INTO employees VALUES (20003, 'Ada', 'Kunz', '1980-11-09', 'Genf', 12500)
ON CONFLICT (emp_id) DO UPDATE SET city = 'Genf', salary = 12500;
UPDATE employees SET city = 'Sion' WHERE emp_id = 20003;

\echo '  Otto has the number -7. He gets another one.'
DELETE FROM employees WHERE emp_id = 20004;
INSERT INTO employees VALUES (-7, 'Otto', 'Vogt', '1975-08-30', 'Thun', 5400);
UPDATE employees SET emp_id = 20004 WHERE emp_id = -7;
