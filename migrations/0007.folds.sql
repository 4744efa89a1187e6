-- What a turn and its agent had come to in the middle of the turn: a server that takes them over reads on from there.
ALTER TABLE runners ADD COLUMN fold TEXT;
