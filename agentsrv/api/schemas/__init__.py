"""What bodies, queries and answers look like, a module a subject. The OpenAPI document is made from these classes.

A field with `UNSET` may be left out; null is not a way to leave it out. Unknown fields are ignored, so that a
client of an earlier or later version keeps working.
"""
