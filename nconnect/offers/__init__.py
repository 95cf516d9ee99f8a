"""What peers offer each other, judged before anything on this machine follows it (pure).

Modules: `names` makes the names beneath `.internal` of peers and of what they offer.
"""
