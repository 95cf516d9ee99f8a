"""Coverage-guided fuzzing: one target for each parser and machine, and the corpus that was found for each.

`scripts/fuzz` runs the targets under Atheris; `test_corpus.py` runs the corpus, findings included, anywhere.
`README.md` has the bugs that were planted to see whether the targets find any.
"""
