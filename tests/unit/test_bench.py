"""`vlmlab bench`: what is measured is there and plausible."""

import pytest

from vlmlab.bench import BENCHMARKS
from vlmlab.errors import BadInput


def test_render_counts_pictures_a_second_in_one_process_and_in_several():
    result = BENCHMARKS["render"](n=4, size=24, processes=1)
    assert (result["n"], result["size"], result["processes"]) == (4, 24, 1)
    assert result["one_process_per_second"] > 0
    assert result["processes_per_second"] > 0


@pytest.mark.parametrize("settings", [{"n": 0}, {"processes": 0}])
def test_nothing_to_measure_is_refused(settings):
    with pytest.raises(BadInput, match="at least 1"):
        BENCHMARKS["render"](**settings)
