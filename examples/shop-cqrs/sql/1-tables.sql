-- The command side: who may do what, and the tables. Run as a superuser in the database shop_cqrs, which has pg_cdc.

CREATE ROLE shop_owner NOLOGIN;
-- The service shop-commands.
CREATE ROLE shop_commands LOGIN;
GRANT CREATE ON SCHEMA public TO shop_owner;
GRANT EXECUTE ON FUNCTION cdc_emit(text, text, jsonb, jsonb) TO shop_owner;
SET ROLE shop_owner;
ALTER DEFAULT PRIVILEGES REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC;

-- Third normal form: each fact stands in one place. Columns that follow from others are kept right by PostgreSQL itself.

CREATE TABLE customer (
    id    bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name  text NOT NULL CHECK (name <> ''),
    email text NOT NULL UNIQUE CHECK (email LIKE '_%@_%')
);

CREATE TABLE product (
    id           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name         text NOT NULL CHECK (name <> ''),
    price        numeric(12, 2) NOT NULL CHECK (price >= 0),
    stock        integer NOT NULL CONSTRAINT never_oversold CHECK (stock >= 0),
    stock_status text NOT NULL GENERATED ALWAYS AS (
        CASE WHEN stock = 0 THEN 'sold out' WHEN stock < 10 THEN 'low' ELSE 'available' END) STORED
);

CREATE TABLE orders (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    customer_id bigint NOT NULL REFERENCES customer,      -- a customer with orders cannot be deleted
    ordered_at  timestamptz NOT NULL DEFAULT now(),
    total_price numeric(12, 2) NOT NULL DEFAULT 0         -- of its items: item_sold() and item_returned()
);
CREATE INDEX ON orders (customer_id);

CREATE TABLE order_item (
    order_id    bigint NOT NULL REFERENCES orders ON DELETE CASCADE,
    product_id  bigint NOT NULL REFERENCES product,       -- a product that was sold cannot be deleted
    quantity    integer NOT NULL CHECK (quantity > 0),
    price       numeric(12, 2) NOT NULL,                  -- as it was when the item was sold: item_price()
    total_price numeric(12, 2) NOT NULL GENERATED ALWAYS AS (quantity * price) STORED,
    PRIMARY KEY (order_id, product_id)
);
CREATE INDEX ON order_item (product_id);

-- What the service may write: no total, no price of an item, no stock status.

GRANT SELECT ON customer, product, orders, order_item TO shop_commands;
GRANT INSERT (name, email), UPDATE (name, email), DELETE ON customer TO shop_commands;
GRANT INSERT (name, price, stock), UPDATE (name, price, stock), DELETE ON product TO shop_commands;
GRANT INSERT (customer_id), DELETE ON orders TO shop_commands;
GRANT INSERT (order_id, product_id, quantity) ON order_item TO shop_commands;

-- Every change of a row goes to Kafka: shop_cqrs.public.customer, and so on.

SELECT cdc_track(name::regclass) FROM unnest('{customer,product,orders,order_item}'::text[]) AS name;

RESET ROLE;
