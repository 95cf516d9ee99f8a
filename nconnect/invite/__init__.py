"""Invitations: how a device that the provider does not know yet becomes its peer. Pure.

For people: docs/invitations.md. On the wire: docs/protocol.md, "Invitations".

    provider: nconnect invite                          device: nconnect join
    token.Token.encode ---- text or QR code, by hand ------> token.Token.parse
       |  its keys only                                           |
       v                                                          v
    book.Book   (issued half: root's file)             applicant.Applicant
       |                                                  |            ^
       v                 application: MAC, Noise message 1|            |
    registrar.Registrar.judge <-- NKN, unencrypted -------+            |
       |-- None: silence                                               |
       |-- bytes: a refusal with its reason, and a MAC ----------------+
       `-- Admission -> pool.pick, book.use, the peer is added         |
              grant(Welcome): Noise message 2 -------------------------+-> Welcome -> a configuration file
              grant(Offer), where the device accepts less -------------+-> RoutesNotAccepted
    table.table_of(config, book): the file's peers and the invited ones, one table

An invitation's states (`book.InvitationState`), and what ends each:

    open --a device applies and is added--> used --a session with it--> used, exchange key erased
      |--expires_at-->  expired --root looks--> closed: no device can be added later
      `--`invite revoke`--> revoked

The applicant sends the same application again (1, 2, then every 3 s) until it is answered; the registrar
answers the same device the same way until there was a session with it. So a lost answer costs nothing.

The handshake is Noise_IKpsk2 (`nconnect.crypto.noise`) with a key from the token as psk. The frames travel in
unencrypted NKN messages, because opening NaCl's box would be a public-key operation for any stranger. A MAC
under the token's other key is checked first, as WireGuard checks its mac1 (its paper, section 5.4.4).

- **token**: what the provider hands over: its address, an id, a secret, the seeds of its network.
- **invitation**: what the provider keeps of a token: its id, two keys, a name, rights and an end.
- **book**: all invitations of an interface, in two halves with two owners (decision 0021).
- **applicant**, **application**: the new device; its message. **registrar**: the provider's side, judges it.
- **grant**, **offer**, **refusal**: the answers. Everything else meets silence.
- **pool**: the free addresses of the provider's tunnel networks.

To add a field that the device should learn: `welcome.Welcome` (fields that a version does not know are
ignored). A reason to refuse: `wire.invite.Reason`, its sentence in `applicant`, a row in docs/protocol.md.
"""
