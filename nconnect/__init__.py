"""nconnect: IP packets between a person's device and a provider's subnet, over the NKN network.

The floors. None imports from above it, and the lower three import nothing that waits, reads,
writes, logs, tells the time or draws random numbers (tests/test_floors.py enforces both):

    6  cli                                            commands: parse, ask the daemon or change the file
    5  daemon                                         wiring, tasks, driver, events, start and stop
    4  io, control, sdk                               sockets, files, TUN, netlink, nft; API; SDK
    3  tunnel, nkn, ncp, node, nat, invite, host, …   state machines and plans, pure
    2  wire, ip, crypto, queueing                     codecs and queues, pure
    1  model, config, errors                          values, pure

To find your way: docs/architecture.md has the pictures (who owns whom, a packet's way, tasks, files on the
disk) and a table of where to add what. Each package's docstring is its theory of operation: what it is for,
its words, states and specifications, how its parts call each other. docs/protocol.md has every byte on the
wire, docs/decisions the reasons.
"""

__version__ = "0.1.0"
