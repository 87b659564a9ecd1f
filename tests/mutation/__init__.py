"""Mutation testing of the money rules: `make mutation`. See docs/mutation.md.

A mutant is the code with one small change that makes it wrong: `<` for `<=`, a condition left out.
Tests that pass all the same would not notice that mistake.
"""
