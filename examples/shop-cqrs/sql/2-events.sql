-- What an item's sale changes, and the domain events: each in the transaction that it tells of, whoever writes.
-- All functions are shop_owner's, and work with its rights: the service can neither write a total nor tell an event of its own.

SET ROLE shop_owner;

-- A domain event goes into the topic shop_cqrs.<event_type>. Money is a text with two decimals, for JSON's numbers are often read as floats.
CREATE FUNCTION tell(event_type text, key text, payload jsonb) RETURNS void LANGUAGE sql AS $$
    SELECT cdc_emit(current_database() || '.' || event_type, key,
        jsonb_build_object('eventType', event_type, 'payload', payload))
$$;

-- Customers and products. -------------------------------------------------------------------------------------------------

CREATE FUNCTION customer_event() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
    it customer = coalesce(NEW, OLD);
BEGIN
    PERFORM tell(TG_ARGV[0], it.id::text, jsonb_build_object(
        'customerId', it.id, 'customerName', it.name, 'customerEmail', it.email));
    RETURN NULL;
END $$;

CREATE TRIGGER created AFTER INSERT ON customer
    FOR EACH ROW EXECUTE FUNCTION customer_event('customer-created');
CREATE TRIGGER updated AFTER UPDATE ON customer
    FOR EACH ROW WHEN (OLD.* IS DISTINCT FROM NEW.*) EXECUTE FUNCTION customer_event('customer-updated');
CREATE TRIGGER deleted AFTER DELETE ON customer
    FOR EACH ROW EXECUTE FUNCTION customer_event('customer-deleted');

CREATE FUNCTION product_event() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
    it product = coalesce(NEW, OLD);
BEGIN
    PERFORM tell(TG_ARGV[0], it.id::text, jsonb_build_object(
        'productId', it.id, 'productName', it.name, 'productPrice', it.price::text,
        'stock', it.stock, 'stockStatus', it.stock_status));
    RETURN NULL;
END $$;

CREATE TRIGGER created AFTER INSERT ON product
    FOR EACH ROW EXECUTE FUNCTION product_event('product-created');
-- Not where the stock changes because of an order, which has events of its own: that is an UPDATE inside a trigger.
CREATE TRIGGER updated AFTER UPDATE ON product
    FOR EACH ROW WHEN (pg_trigger_depth() = 0 AND OLD.* IS DISTINCT FROM NEW.*) EXECUTE FUNCTION product_event('product-updated');
CREATE TRIGGER deleted AFTER DELETE ON product
    FOR EACH ROW EXECUTE FUNCTION product_event('product-deleted');

-- Items of an order. ------------------------------------------------------------------------------------------------------

-- An item has the price that its product has now. The product stays as it is until the end of the transaction.
CREATE FUNCTION item_price() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
BEGIN
    SELECT price INTO NEW.price FROM product WHERE id = NEW.product_id FOR NO KEY UPDATE;
    RETURN NEW;
END $$;

CREATE TRIGGER price BEFORE INSERT ON order_item FOR EACH ROW EXECUTE FUNCTION item_price();

-- The stock falls, or the constraint never_oversold refuses the whole order; the order's total rises.
CREATE FUNCTION item_sold() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
    sold product;
    buyer bigint;
BEGIN
    UPDATE product SET stock = stock - NEW.quantity WHERE id = NEW.product_id RETURNING * INTO sold;
    UPDATE orders SET total_price = total_price + NEW.total_price WHERE id = NEW.order_id RETURNING customer_id INTO buyer;
    PERFORM tell('product-sold', NEW.order_id || '-' || NEW.product_id, jsonb_build_object(
        'productId', sold.id, 'productName', sold.name, 'productPrice', NEW.price::text,
        'quantitySold', NEW.quantity, 'remainingStock', sold.stock, 'stockStatus', sold.stock_status,
        'orderId', NEW.order_id, 'customerId', buyer, 'productTotalPrice', NEW.total_price::text));
    RETURN NULL;
END $$;

CREATE TRIGGER sold AFTER INSERT ON order_item FOR EACH ROW EXECUTE FUNCTION item_sold();

-- An order was deleted: what it had goes back into the stock, and an event without a value (a tombstone) takes the sale back.
CREATE FUNCTION item_returned() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
BEGIN
    UPDATE product SET stock = stock + OLD.quantity WHERE id = OLD.product_id;
    UPDATE orders SET total_price = total_price - OLD.total_price WHERE id = OLD.order_id;
    PERFORM cdc_emit(current_database() || '.product-sold', OLD.order_id || '-' || OLD.product_id, NULL);
    RETURN NULL;
END $$;

CREATE TRIGGER returned AFTER DELETE ON order_item FOR EACH ROW EXECUTE FUNCTION item_returned();

CREATE FUNCTION item_stays() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'what was sold is not changed: delete the order, and place another one';
END $$;

CREATE TRIGGER stays BEFORE UPDATE ON order_item FOR EACH ROW EXECUTE FUNCTION item_stays();

-- Orders. -----------------------------------------------------------------------------------------------------------------

CREATE FUNCTION order_event() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
    it orders;
BEGIN
    SELECT * INTO it FROM orders WHERE id = coalesce(NEW.id, OLD.id);
    IF FOUND THEN
        PERFORM tell(TG_ARGV[0], it.id::text, jsonb_build_object(
            'orderId', it.id, 'customerId', it.customer_id, 'orderedAt', to_char(it.ordered_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'), 'totalPrice', it.total_price::text,
            'items', (SELECT coalesce(jsonb_agg(jsonb_build_object('productId', i.product_id, 'quantity', i.quantity,
                    'price', i.price::text, 'totalPrice', i.total_price::text) ORDER BY i.product_id), '[]')
                FROM order_item i WHERE i.order_id = it.id)));
    END IF;
    RETURN coalesce(NEW, OLD);
END $$;

-- At the end of the transaction, when all items are there; before the items go.
CREATE CONSTRAINT TRIGGER created AFTER INSERT ON orders DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW EXECUTE FUNCTION order_event('order-created');
CREATE TRIGGER deleted BEFORE DELETE ON orders
    FOR EACH ROW EXECUTE FUNCTION order_event('order-deleted');

RESET ROLE;
