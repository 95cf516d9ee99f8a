"""`scripts/attack`: attacks on a live tunnel that carries a chat.

- **rows**: the attacks, a module for each part of the product; each module has a tuple `ROWS`.
- **attack**: what a row is, and what it returns.
- **stage**: the world that all rows share, and what a row may use in it.
- **node**: a relay that works, and on command injects what a hostile one could.
- **sender**: an NKN client that misbehaves: as a stranger, or with an authorised peer's key and session.
- **outsider**: a stranger at the port of direct paths, by UDP and TCP.
- **overheard**: the packets on a cable, for who is on the way, and to see what arrives.
- **second_user**: one more user, on a machine of its own, for rows that harm or stop one.
- **chat**: a chat with a real language model behind the provider, which notes when each token arrives.
- **report**: the table, and the verdict.

To add a row: write a function that takes the `Stage`, tries the attack, undoes what it changed in the world,
and returns a `Result`; then put an `Attack` with its name into the `ROWS` of the module that fits.
`scripts/attack --only NAME` runs it alone, `--part PART` all rows of one module.
"""
