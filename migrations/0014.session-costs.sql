-- What a session has cost is read without its turns' rows, which may hold much else.
CREATE INDEX turns_with_cost ON turns (session_id, cost_usd) WHERE cost_usd IS NOT NULL;
