"""The numbers of the direct path. Measured ones say so; the others are proposals (docs/decisions/0030)."""

from __future__ import annotations

# A search. Measured: a router whose INPUT chain does not drop keeps a conntrack entry for a probe that comes
# too early, and its own host's packets then leave from another port. So the first probes have a TTL with
# which they leave this side's NAT, or two, and do not reach the other's.
LOW_TTLS = (2, 3, 4)
LOW_TTL_AT_S = (0.0, 0.05, 0.1)
LOW_TTL_S = 0.15
MAX_LOW_TTL_S = 1.0  # where the relay is slow
# From the first probe with the full TTL on: a lost one costs 50 ms.
FULL_TTL_AT_S = (0.0, 0.05, 0.15, 0.35, 0.75, 1.75, 2.75, 3.75)
SEARCH_S = 5.0
CHOOSE_AFTER_S = 0.03  # from the first proof to the choice: a better pair may still answer
MAX_TARGETS = 16  # in one search: told and peer-reflexive ones
# Failed searches: one more soon, then with pauses in which the entry above (30 s) dies.
BACK_OFF_S = (5.0, 35.0, 70.0, 140.0, 280.0, 300.0)
SILENCE_S = 30.0  # traffic after so long a silence begins a search
LISTS_PER_S, LISTS_BURST = 4.0, 16.0  # of a peer's lists that are read
ANSWER_EVERY_S = 0.5  # at most one search of the peer's is answered in this time
REFLEXIVE_FRESH_S = 25.0  # a NAT keeps a mapping for 30 s at least
TRIGGERED_EVERY_S = 0.04  # a probe is answered by one of ours, at most this often to one address
OTHER_PAIR_EVERY_S = (
    0.1  # guessed: what each datagram by another pair than ours costs is spent so often at most
)
ROAMED_EVERY_S = 1.0  # an address that the peer seems to have moved to is asked
STALE_MAPPING_S = 15.0  # a NAT may have forgotten who was silent for longer

# The state of the path.
SUSPECT_AFTER_S = 0.3  # data unreported for this long, or three round trips
QUESTION_AFTER_S = 0.1  # data unreported for this long, or 1.5 round trips: ask
GIVE_UP_AFTER_S = 1.0  # suspect for this long
KEEPALIVE_BUSY_S = 3.0  # nothing heard for this long, and packets within TRAFFIC_S
KEEPALIVE_IDLE_S = 15.0
TRAFFIC_S = 10.0
LET_GO_S = 120.0  # without packets
KEEPALIVE_ANSWER_S = 0.5  # a keepalive's answer; the path is left after KEEPALIVE_TRIES
KEEPALIVE_TRIES = 3
SLOWER_BY_S = 0.010  # than the relay: not used
BETTER_BY_S = 0.010  # and BETTER_BY, BETTER_TIMES in a row: another pair is used
BETTER_BY = 0.2
BETTER_TIMES = 3
RECHECK_S = 4.0  # a pair that worked is asked again, while there is traffic
RECHECK_FOR_S = 120.0  # as long as NATs keep what was in use; then every RECHECK_LATER_S
RECHECK_LATER_S = 10.0  # so that a path that is there again is in use within 15 s
RECHECK_LATER_FOR_S = 3600.0
# Probes may keep a wrong entry of a router alive (see LOW_TTLS) until both sides pause for 30 s. They do so
# after every eighth search, which both know by its id, and begin the next one at the end of the pause.
PAUSE_AFTER = 8
SEARCH_PAUSE_S = 36.0
REMEMBER_S = 600.0  # a pair that worked takes part in searches, and these don't become rarer than every 40 s
DEAD_PENALTY_S = 3.0  # after a failure, and twice as long after each further one
LOSSY_PENALTY_S = 10.0
MAX_PENALTY_S = 300.0
FORGIVE_S = 60.0  # a path that carried for so long begins with the shortest penalty again

# Loss, in slots: enough bad ones, and the relay takes over.
SLOT_S = 0.5
SLOTS, BAD_SLOTS = 4, 3
MAX_LOSS = 0.05
LOSS_MARGIN = 0.65  # over the square root of the number of datagrams: three standard deviations at 5 %
DROPPED_RUNS = 4  # of data in a row that were reported lost: nothing but probes passes
MIN_SLOT_DATAGRAMS = 20

# Anti-amplification, to an address that has never answered; IP and UDP headers count.
SEARCH_BYTES = 5_000
HOUR_BYTES = 20_000
AMPLIFICATION = 3  # RFC 9000, section 8
MAX_ADDRESSES = 4096  # whose budget is kept; further ones get nothing
VALID_S = RECHECK_LATER_FOR_S  # an address that acknowledged stays unlimited for so long

# The MTU search (RFC 8899). Sizes are UDP payloads.
BASE_BYTES = 1200
MAX_PROBES = 3
PROBE_TIMER_S = 1.0  # or three round trips
VERIFY_TIMER_S = 0.1  # or 1.5 round trips: the size in use is in doubt
RAISE_S = 600.0
MIN_STEP_BYTES = 20
# Payloads of paths of 1,280 (IPv6's least), 1,400, 1,420 (WireGuard), 1,480 (6in4), 1,492 (PPPoE) and 1,500
# bytes over IPv4; the IPv6 ones are 20 less.
PATH_MTUS = (1280, 1400, 1420, 1480, 1492, 1500)
HEADERS_BYTES = {4: 28, 6: 48}  # of IP and UDP
