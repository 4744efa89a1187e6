"""Codex: `codex app-server`, JSON-RPC on stdin and stdout."""
