"""How long faults interrupt flows, through nconnect and, where they can be given to them, through others.

What each is: `tunnels` has the tunnels, `faults` what is done to them, `page` the table in the documentation.
"""
