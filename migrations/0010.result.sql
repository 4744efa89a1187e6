-- What the agent said last in a turn that has completed.
ALTER TABLE turns ADD COLUMN result TEXT;
