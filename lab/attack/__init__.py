"""`scripts/attack`: a hostile node and hostile senders against a live tunnel that carries a chat.

- **node**: a relay that does its work, and on command injects what a hostile one could.
- **sender**: an NKN client that misbehaves: as a stranger, or with an authorised peer's key and session.
- **chat**: a chat with a real language model behind the provider, which notes when each token arrives.
- **report**: the table, and the verdict.
"""
