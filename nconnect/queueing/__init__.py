"""Queues that keep a token from waiting behind a bulk transfer: fair queueing with CoDel, and pacing.

Glossary. *flow*: what shares fairly with other flows; the caller numbers them. *sojourn*: how long an item
stood in the queue. *pacer*: says when how many bytes may go to a link whose own buffer is too long.
"""
