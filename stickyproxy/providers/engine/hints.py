"""What corrects the labels of a service, commands for most: pure.

What is offered has been tried on the labels first, alone and after the hints before it: it leaves
fewer problems than there were, overwrites no label but the one that it corrects, and takes no host
away.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from stickyproxy.model.snapshot import Problem

MOST = 16
"""Problems of one service for which hints are looked for: trying takes its time."""
LONGEST = 200
"""Characters of a command: one that does not fit a line or two is not worth copying."""


@dataclass(frozen=True, slots=True)
class LabelChange:
    """Labels to remove and to set, by their whole names."""

    remove: tuple[str, ...] = ()
    add: tuple[tuple[str, str], ...] = ()

    def applied_to(self, labels: Mapping[str, str]) -> dict[str, str]:
        """The labels after the change."""
        kept = {key: labels[key] for key in labels if key not in self.remove}
        return kept | dict(self.add)


Relabel = Callable[[str, LabelChange], str]
"""How somebody makes a change to the labels of a service: a command, or what to do."""


def service_update(service: str, change: LabelChange) -> str:
    """The command for a Swarm service."""
    words = ["docker", "service", "update"]
    for label in change.remove:
        words += ["--label-rm", label]
    for label, value in change.add:
        words += ["--label-add", f"{label}={value}"]
    return shlex.join([*words, service])


def remedy(service: str, change: LabelChange, relabel: Relabel = service_update) -> str:
    """What to type; empty if that is no line for a terminal."""
    line = relabel(service, change)
    return line if line.isprintable() and len(line) <= LONGEST else ""


Finding = tuple[Problem, Sequence[LabelChange]]
"""A problem, and what might solve it, best first."""


@dataclass(frozen=True, slots=True)
class Tally:
    """How labels fare."""

    problems: int
    hosts: frozenset[str] | None
    """None: unknown."""


def with_hints(
    findings: Sequence[Finding],
    labels: Mapping[str, str],
    fare: Callable[[Mapping[str, str]], Tally],
    relabel: Relabel = service_update,
) -> Iterator[Problem]:
    """The problems, each with the first change that helps."""
    ahead = labels

    def helps(change: LabelChange) -> bool:
        taken = ahead.keys() - labels.keys()  # an earlier hint sets these
        return not any(label in taken for label, _ in change.add) and all(
            _is_better(fare(change.applied_to(each)), fare(each)) for each in (labels, ahead)
        )

    for place, (problem, changes) in enumerate(findings):
        name = problem.service
        offered = (each for each in changes if place < MOST and remedy(name, each, relabel))
        chosen = next(filter(helps, offered), None)
        if chosen is None:
            yield problem
        else:
            ahead = chosen.applied_to(ahead)
            yield replace(problem, remedy=remedy(name, chosen, relabel))


def _is_better(after: Tally, before: Tally) -> bool:
    kept = before.hosts is None or (after.hosts is not None and before.hosts <= after.hosts)
    return after.problems < before.problems and kept
