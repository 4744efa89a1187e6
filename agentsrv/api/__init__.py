"""The wire: URLs, JSON, status codes, Server-Sent Events.

A request passes the middlewares (request id and access log, errors, host and origin, key, body limit); then
a handler decodes it, makes one call below, and encodes the answer. `routes.py` shows every URL, and the
OpenAPI document is made from it. Nothing here decides anything about sessions, turns or agents, and nothing
below imports aiohttp.
"""
