-- The two commands that are more than one statement. Both lock the products in the order of their key before anything else,
-- so that orders for the same products wait for each other and never in a circle.

SET ROLE shop_owner;

-- wanted: [{"productId": 1, "quantity": 2}, …]. Either all of it is sold, or nothing.
CREATE FUNCTION place_order(buyer bigint, wanted jsonb) RETURNS orders LANGUAGE plpgsql SET search_path = public, pg_temp AS $$
DECLARE
    item   record;
    placed orders;
BEGIN
    PERFORM FROM product p
        WHERE p.id IN (SELECT (w ->> 'productId')::bigint FROM jsonb_array_elements(wanted) w)
        ORDER BY p.id FOR NO KEY UPDATE;

    IF NOT EXISTS (SELECT FROM customer c WHERE c.id = buyer) THEN
        RAISE invalid_parameter_value USING MESSAGE = format('there is no customer %s', buyer);
    END IF;
    INSERT INTO orders (customer_id) VALUES (buyer) RETURNING id INTO placed.id;

    FOR item IN
        SELECT w."productId" AS product_id, sum(w.quantity)::integer AS quantity, p.stock
            FROM jsonb_to_recordset(wanted) AS w("productId" bigint, quantity integer)
            LEFT JOIN product p ON p.id = w."productId"
            GROUP BY 1, p.stock ORDER BY 1
    LOOP
        IF item.stock IS NULL OR item.quantity IS NULL THEN
            RAISE invalid_parameter_value
                USING MESSAGE = format('there is no product %s, or it is not said how many of it', item.product_id);
        ELSIF item.stock < item.quantity THEN
            RAISE EXCEPTION 'of product %, % are wanted and % are left', item.product_id, item.quantity, item.stock;
        END IF;
        INSERT INTO order_item (order_id, product_id, quantity) VALUES (placed.id, item.product_id, item.quantity);
    END LOOP;

    SELECT o.* INTO placed FROM orders o WHERE o.id = placed.id;
    IF NOT EXISTS (SELECT FROM order_item i WHERE i.order_id = placed.id) THEN
        RAISE invalid_parameter_value USING MESSAGE = 'an order has at least one item';
    END IF;
    RETURN placed;
END $$;

-- False where there is none. Its items go back into the stock.
CREATE FUNCTION delete_order(order_number bigint) RETURNS boolean LANGUAGE plpgsql SET search_path = public, pg_temp AS $$
BEGIN
    PERFORM FROM product p
        WHERE p.id IN (SELECT i.product_id FROM order_item i WHERE i.order_id = order_number)
        ORDER BY p.id FOR NO KEY UPDATE;
    DELETE FROM orders WHERE id = order_number;
    RETURN FOUND;
END $$;

GRANT EXECUTE ON FUNCTION place_order(bigint, jsonb), delete_order(bigint) TO shop_commands;

RESET ROLE;
