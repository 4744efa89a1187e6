"""Claude Code: `claude -p` with lines of JSON on stdin and stdout."""
