-- The audit log is added to at its end. Nothing in it is changed or put in the place of something else, and nothing
-- is dropped on its first day (AUDIT_DAYS cannot be less). Whoever may write the file can drop triggers as well, but
-- then has to, and has meant it.
CREATE TRIGGER audit_is_not_changed BEFORE UPDATE ON audit
BEGIN
    SELECT RAISE(ABORT, 'entries of the audit log are never changed');
END;

-- An hour less than a day: clocks are set.
CREATE TRIGGER audit_is_kept BEFORE DELETE ON audit
WHEN old.at > (strftime('%s', 'now') - 82800) * 1000
BEGIN
    SELECT RAISE(ABORT, 'entries of the audit log are kept for a day');
END;

-- Of a row that INSERT OR REPLACE overwrites no trigger for DELETE is told.
CREATE TRIGGER audit_grows_at_its_end AFTER INSERT ON audit
WHEN new.id <= (SELECT seq FROM sqlite_sequence WHERE name = 'audit')
BEGIN
    SELECT RAISE(ABORT, 'the audit log is added to at its end only');
END;
