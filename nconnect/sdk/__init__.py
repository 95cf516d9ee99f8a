"""The clients that programs use: they send, reply and listen, on asyncio. docs/nkn.md explains how to use
them.

Programs import the public names from `nconnect.nkn`; the daemon loads this package only
to serve clients of the official nConnect.

    program
      |  async with, send, receive, async for, Message.reply
      v
    client.Client              one identity, one link
    multiclient.MultiClient    one identity, several links: sub-client k logs in as __k__.ADDRESS
      |
      v
    base_client.BaseClient     what both have in common
      |-- sub_link.SubLink, one per link --> nconnect.io.nkn.link.LinkRunner --> the network
      |-- nconnect.nkn.exchange: ids, sealing, copies, answers (pure)
      |-- inbox.Inbox: messages until the program receives them, bounded
      |-- streaming.Streaming (of a MultiClient) --> nconnect.ncp: stream.Stream and streaming.StreamServer
      |-- chain.NknChain: topics and names --> nconnect.wire.chain, nconnect.io.nkn.rpc
      `-- waiting.PendingReplies: one sent message and the answers to it

A message out: `BaseClient.send` -> `Exchange.message` (sealed `Batch`es) -> every link that is up and takes
data -> `PendingReplies`, until each destination answered or the time is over (`NoReply`). A message in:
`SubLink.on_message` -> `Exchange.receive` (opened, copies dropped) -> the inbox, or an answer to a
`PendingReplies`.

States of a client: made -> entered (`async with`; up once one link has logged in, otherwise
`NotConnected`) -> closed. It can be entered once; every call on one that is not entered or is closed
raises `ClientClosed`. A link that breaks is made again for as long as the client lives.

It follows the official SDKs (nkn-sdk-go, nkn-sdk-js) on the wire. Departures: messages that are not
encrypted are refused unless `accept_unencrypted` is set; memory is bounded everywhere, and a full inbox
refuses the newest message without an ACK, so that its sender learns of it. For streams nconnect.ncp says
what differs.

- **reply**, **ACK**: an answer with or without content. A message is acknowledged when the program asks
  for the next one without having answered.
- **sub-client**: one login of a `MultiClient`. **original**: the login with the bare address beside them.
- **drop**: a message that was not delivered, counted by `MessageDrop`.

To add an option to both clients: a field of `base_client.Options` and a parameter of `BaseClient`,
docs/nkn.md, and `scripts/api-docs`, which writes docs/reference/nkn.md from the docstrings.
"""
