"""Mutation testing of the money rules: `make mutation`. See docs/mutation.md.

A mutant is the code with one small change that makes it wrong: `<` for `<=`, or a condition left
out. If all tests pass with a mutant, they would not notice that mistake.
"""
