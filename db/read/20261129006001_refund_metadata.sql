-- migrate:up

-- Metadata of refunds that a program recorded before refunds had ids. A replay
-- renders it in the present form, so the live rows get it too: the refund's id is
-- its payment's, and what was refundId is the gateway's id. No later event of such
-- a payment is rewritten, because its refundId is the payment's.
DO $do$
DECLARE
    g     integer;
    audit text := 'slot_audit_log_g' || (SELECT generation FROM projection_generations WHERE projection = 'slot_audit_log' AND state = 'live');
BEGIN
    FOR g IN SELECT generation FROM projection_generations WHERE projection = 'slot_audit_log' AND state <> 'building' LOOP
        -- First: the rows of the refunds that became due still say which those were.
        EXECUTE format($sql$
            UPDATE %1$I c SET metadata = jsonb_strip_nulls((c.metadata - 'refundId') || jsonb_build_object(
                'refundId', c.metadata->'paymentId', 'gatewayRefundId', c.metadata->'refundId'))
            FROM %1$I d
            WHERE c.type = 'RefundCompleted' AND c.metadata->>'refundId' IS DISTINCT FROM c.metadata->>'paymentId'
              AND d.type = 'RefundDue' AND d.slot_id = c.slot_id AND d.metadata->>'paymentId' = c.metadata->>'paymentId'
              AND NOT d.metadata ? 'cause'$sql$, 'slot_audit_log_g' || g);
        EXECUTE format($sql$
            UPDATE %1$I SET metadata = metadata || jsonb_build_object('refundId', metadata->'paymentId', 'returnUnit', false,
                'cause', CASE metadata->>'reason' WHEN 'AMOUNT_MISMATCH' THEN 'AMOUNT_MISMATCH' ELSE 'LATE' END)
            WHERE type = 'RefundDue' AND NOT metadata ? 'cause'$sql$, 'slot_audit_log_g' || g);
    END LOOP;
    -- What the fold keeps of such a refund: the gateway's id, and times in the form
    -- in which a replay writes them, without trailing zeros.
    FOR g IN SELECT generation FROM projection_generations WHERE projection = 'purchases' AND state <> 'building' LOOP
        EXECUTE format($sql$
            UPDATE %1$I p SET money = p.money || jsonb_build_object('refunds', jsonb_build_array(p.money->'refunds'->0 || jsonb_strip_nulls(
                jsonb_build_object('gatewayId', r.gateway_id, 'createdAt', CASE WHEN r.created_at LIKE '%%.%%' THEN regexp_replace(r.created_at, '\.?0+Z$', 'Z') ELSE r.created_at END, 'updatedAt', CASE WHEN r.updated_at LIKE '%%.%%' THEN regexp_replace(r.updated_at, '\.?0+Z$', 'Z') ELSE r.updated_at END))))
            FROM (SELECT q.id, q.money->'refunds'->0->>'createdAt' AS created_at, q.money->'refunds'->0->>'updatedAt' AS updated_at,
                         coalesce(q.money->'refunds'->0->>'gatewayId', c.metadata->>'gatewayRefundId') AS gateway_id
                  FROM %1$I q
                  LEFT JOIN %2$I c ON c.type = 'RefundCompleted' AND c.metadata->>'paymentId' = q.id::text AND c.metadata->>'refundId' = q.id::text
                  WHERE jsonb_array_length(q.money->'refunds') = 1 AND q.money->'refunds'->0->>'id' = q.id::text) r
            WHERE r.id = p.id$sql$, 'purchases_g' || g, audit);
    END LOOP;
END $do$;

-- migrate:down
