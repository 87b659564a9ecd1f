"""`make mutation`: tries mutants of the money rules, and lists those that no test notices."""

import argparse
import random
import sys
from collections import Counter
from typing import Final

from tests.mutation import explanations, targets
from tests.mutation.mutants import Key, Mutant, mutants_of
from tests.mutation.running import Verdict, run

ENOUGH: Final = 0.95
SAMPLE: Final = 200


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="make mutation", description=__doc__)
    parser.add_argument("--seed", type=int, default=1, help="seed of the random sample (1)")
    parser.add_argument(
        "--sample", type=int, default=SAMPLE, help=f"number of mutants; 0: all ({SAMPLE})"
    )
    parser.add_argument(
        "--only",
        nargs="+",
        choices=targets.TARGETS,
        default=list(targets.TARGETS),
        metavar="PART",
        help=f"only these parts: {', '.join(targets.TARGETS)}",
    )
    parser.add_argument("--matching", default="", help="only mutants whose description has this")
    parser.add_argument("--list", action="store_true", help="list the mutants without trying them")
    options = parser.parse_args(arguments)

    everything = [mutant for file in targets.files() for mutant in mutants_of(file)]
    files = [file for name in options.only for file in targets.TARGETS[name].files]
    chosen = [m for m in everything if m.key.file in files and options.matching in str(m)]
    sample = chosen
    if options.sample and options.sample < len(chosen):
        picked = set(random.Random(options.seed).sample(range(len(chosen)), options.sample))
        sample = [mutant for place, mutant in enumerate(chosen) if place in picked]
    if options.list:
        _say("".join(f"{mutant}\n" for mutant in sample))
        return 0
    reasons = explanations.read()
    if wrong := explanations.problems(reasons, everything):
        _say("\n".join(wrong) + "\n")
        return 1
    _say(f"{len(sample)} of {len(chosen)} mutants, seed {options.seed}.\n")
    return _try(sample, chosen, dict(reasons))


def _try(sample: list[Mutant], chosen: list[Mutant], reasons: dict[Key, str]) -> int:
    """Tries the sample and all explained mutants, which must survive. Returns the exit status."""
    sampled = {mutant.key for mutant in sample}
    mutants = [m for m in chosen if m.key in sampled or m.key in reasons]
    verdicts: list[Verdict] = []

    def tell(verdict: Verdict) -> None:
        verdicts.append(verdict)
        explained = "explained " if verdict.mutant.key in reasons else ""
        _say(
            f"[{len(verdicts)}/{len(mutants)}] {explained}{verdict.kind} ({verdict.seconds:.1f} s, "
            f"{verdict.tests} tests) {verdict.test}\n  {verdict.mutant}\n"
        )

    problems = run(mutants, tell=tell, say=_say)
    return _report([v for v in verdicts if v.kind != "invalid"], sampled, reasons, problems)


def _report(
    verdicts: list[Verdict], sampled: set[Key], reasons: dict[Key, str], problems: list[str]
) -> int:
    of_sample = [each for each in verdicts if each.mutant.key in sampled]
    kinds = Counter(each.kind for each in of_sample)
    noticed = sum(each.is_noticed for each in of_sample)
    share = noticed / len(of_sample) if of_sample else 1.0
    survivors = [each for each in of_sample if not each.is_noticed]
    unexplained = [each for each in survivors if each.mutant.key not in reasons]
    wrongly = [e for e in verdicts if e.is_noticed and e.mutant.key in reasons]
    _say("\n== Survivors without an explanation\n" if unexplained else "")
    for each in unexplained:
        reached = "no test runs it" if each.kind == "untested" else f"{each.tests} tests passed"
        _say(f"{each.mutant}\n    {reached}\n")
    _say("\n== Explained as survivors, but noticed\n" if wrongly else "")
    for each in wrongly:
        _say(f"{each.mutant}\n    {each.test}\n")
    hanging = [each for each in of_sample if each.kind == "hangs"]
    _say("\n== Noticed because a test hangs\n" if hanging else "")
    for each in hanging:
        _say(f"{each.mutant}\n    {each.test}\n")
    seconds = sum(each.seconds for each in verdicts)
    _say(
        f"\n{len(of_sample)} mutants: {noticed} noticed ({share:.1%}; "
        f"{kinds['hangs']} of them by a test that hangs), {len(survivors)} survived, "
        f"{len(survivors) - len(unexplained)} of these explained. "
        f"{seconds / max(1, len(verdicts)):.1f} s per mutant.\n"
    )
    if share < ENOUGH:
        problems.append(f"Fewer than {ENOUGH:.0%} were noticed.")
    _say("".join(f"{problem}\n" for problem in problems))
    return 1 if problems or unexplained or wrongly else 0


def _say(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
