"""nconnect: IP packets between a person's device and a provider's subnet, over the NKN network.

The floors, each importing only from those below it (a test enforces it):

    6  cli                            parse, call control, render
    5  daemon                         the composition root: wiring, tasks, signals, undo
    4  io, control, nkn.client        asyncio, sockets, TUN, netlink, nft; the unix-socket API
    3  tunnel, invite, nkn, node, host, doctor  state machines and plans, pure
    2  wire, ip, crypto, queueing     codecs and queues, pure
    1  model, config, errors          values
"""

__version__ = "0.1.0"
