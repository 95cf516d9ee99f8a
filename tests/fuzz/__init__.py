"""Coverage-guided fuzzing: one target for each parser and machine, and the corpus that was found for each.

`scripts/fuzz` runs the targets under Atheris (what they find: README.md); `test_corpus.py` runs the corpus, findings included, anywhere.
"""
