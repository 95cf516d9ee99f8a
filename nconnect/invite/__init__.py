"""Invitations: how a device that nobody knows yet becomes a peer. Pure (docs/invitations.md).

- **token**: what the provider hands over by another way: who it is, an id, a secret, where to find it.
- **invitation**: what the provider keeps of a token; **book**: all of its invitations.
- **applicant**: the new device's side of the exchange; **desk**: the provider's.
- **application**: the device's message; **grant**, **refusal**: the two answers to it. Everything else meets
  silence.
- **pool**: the addresses of the provider's tunnel networks that nobody has.
"""
