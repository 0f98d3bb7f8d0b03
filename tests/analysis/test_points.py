"""What a run says at one batch and width."""

from __future__ import annotations

import pytest
from fabricated_runs import TWIN_OF, Fake

from harness.analysis.analysis import analyse

SLOWER = "ff_l1_blas/bert-base-4095"


@pytest.mark.parametrize(
    "twins", [(SLOWER, TWIN_OF), (TWIN_OF, SLOWER)], ids=["came later", "came first"]
)
def test_the_pair_of_the_fastest_ff_says_what_is_resolved(twins: tuple[str, str]) -> None:
    """Of two FFs that were measured twice, the pair of the one that is the fastest counts."""
    fake = Fake(twin_of=twins[0], more_twins_of=twins[1:], noise=1e-4, process_noise=1e-4)
    again = {f"{SLOWER}/b64/w32/scipy/again": 1.3, f"{TWIN_OF}/b64/w32/scipy/again": 1.1}
    fake.factors.update(again)
    (point,) = analyse(fake.run()).points
    assert point.fastest.startswith(TWIN_OF)
    assert point.aa is not None
    assert point.aa.value == pytest.approx(1 / 1.1, rel=0.01)


def test_the_pair_of_another_ff_stands_in_until_that_of_the_fastest_has_an_interval() -> None:
    """One block of the later pair says nothing yet: the earlier pair is taken."""
    fake = Fake(twin_of=SLOWER, more_twins_of=(TWIN_OF,), noise=1e-4, process_noise=1e-4)
    fake.factors[f"{SLOWER}/b64/w32/scipy/again"] = 1.3
    run = fake.run()
    late = run.samples["cell"].str.startswith(TWIN_OF) & run.samples["cell"].str.endswith("/again")
    run = run._replace(samples=run.samples[~late | (run.samples["block"] == 11)])
    (point,) = analyse(run).points
    assert point.aa is not None
    assert point.aa.value == pytest.approx(1 / 1.3, rel=0.01)


@pytest.mark.parametrize("more", [(), (SLOWER,)], ids=["one pair", "two pairs"])
def test_a_difference_is_resolved_by_the_pair_that_resolves_the_least(
    more: tuple[str, ...],
) -> None:
    """A speedup of 1.2 is one beside a pair that agrees, and none where another pair misses 1 by 30 %."""
    fake = Fake(twin_of=TWIN_OF, more_twins_of=more, noise=1e-4, process_noise=1e-4)
    fake.factors["fff_l1_blas"] = 1e8 / 1.2 / 4e6
    fake.factors[f"{SLOWER}/b64/w32/scipy/again"] = 1.3
    (point,) = analyse(fake.run()).points
    (found,) = [v for v in point.versus if v.implementation == "fff_l1_blas"]
    assert found.ratio is not None
    assert found.ratio.value == pytest.approx(1.2, rel=0.01)
    assert found.resolved == (not more)
