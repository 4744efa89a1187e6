"""Terminals over HTTP: tokens and lists, and the WebSocket that shows one.

A token and the Origin are checked before the upgrade, so that a refusal has a real status and starts no
shell. On the socket, `json`: every message is `{"type": "data" | "resize" | "close" | "error" | "info", ...}`;
`binary`: the terminal's bytes are binary frames, both ways, and the rest is as before. `raw`: the terminal's bytes
and nothing else, both ways (xterm.js' AttachAddon); sizes come by HTTP.
"""
