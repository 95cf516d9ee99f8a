"""`nconnect doctor`, the judging half: facts about a machine in, findings out. It looks nothing up.

fact: what was seen (`facts`). finding: a fact judged ok, warning or failure, with the command that mends it.
check: one function from facts to findings (`checks`). fix: a mend that is safe to run without asking.
"""
