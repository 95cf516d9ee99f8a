"""`scripts/bench`: measures nconnect beside the tunnels that its users could install instead.

A **bed** is the three machines on which all is measured; a **contender** a tunnel (or none) on it; a **case**
one measurement, which gives the values of one or more **metrics**; a **round** each chosen contender once,
started, put through all chosen cases and stopped. Rounds follow one another: the contenders take turns
(A B A B), and what else the machine does meets all of them alike. A result is the median of the rounds.
"""
