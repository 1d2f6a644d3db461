from __future__ import annotations

import threading
import time

import pytest

from benchmarks.stopwatch import REST, Stopwatch, replaced, watching


class Kitchen:
    def cook(self) -> str:
        time.sleep(0.02)
        self.stir()
        return "soup"

    def stir(self) -> None:
        time.sleep(0.05)


class Bistro(Kitchen):
    pass


def test_stages_are_exclusive_and_add_up() -> None:
    watch = Stopwatch()
    with watching(watch, {"cooking": [(Kitchen, "cook")], "stirring": [(Kitchen, "stir")]}):
        assert Kitchen().cook() == "soup"
        Kitchen().stir()
        time.sleep(0.03)
    assert watch.seconds["cooking"] == pytest.approx(0.02, abs=0.02)
    assert watch.seconds["stirring"] == pytest.approx(0.10, abs=0.03)
    assert watch.seconds[REST] == pytest.approx(0.03, abs=0.02)
    assert sum(watch.seconds.values()) == pytest.approx(watch.total)
    assert watch.calls == {"cooking": 1, "stirring": 2}


def test_functions_are_put_back() -> None:
    cook, own = Kitchen.cook, dict(vars(Bistro))
    replacing = watching(Stopwatch(), {"a": [(Kitchen, "cook"), (Bistro, "stir")]})
    replacing.__enter__()
    assert Kitchen.cook is not cook
    assert "stir" in vars(Bistro)
    error = ZeroDivisionError()
    assert not replacing.__exit__(ZeroDivisionError, error, None)
    assert Kitchen.cook is cook
    assert dict(vars(Bistro)) == own


def test_a_function_that_does_not_exist_is_refused() -> None:
    with pytest.raises(AttributeError, match="bake"), replaced(Kitchen, "bake", lambda function: function):
        pass


def test_other_threads_count_apart() -> None:
    watch = Stopwatch()
    with watching(watch, {"stirring": [(Kitchen, "stir")]}):
        thread = threading.Thread(target=Kitchen().stir)
        thread.start()
        thread.join()
    assert watch.threads["stirring"] == pytest.approx(0.05, abs=0.03)
    assert "stirring" not in watch.seconds


def test_waiting_for_a_generator() -> None:
    def slow():
        for number in range(2):
            time.sleep(0.03)
            yield number

    watch = Stopwatch()
    for _ in watch.waited_for(slow, "waiting")():
        time.sleep(0.01)
    watch.stop()
    assert watch.seconds["waiting"] == pytest.approx(0.06, abs=0.03)
    assert watch.seconds[REST] == pytest.approx(0.02, abs=0.02)


def test_part_of_a_stage_can_be_another_one() -> None:
    watch = Stopwatch()
    with watch.stage("backward"):
        time.sleep(0.03)
        watch.relabel("backward", "backward, first part")
        watch.relabel("something else", "nothing")
        time.sleep(0.06)
    assert watch.seconds["backward, first part"] == pytest.approx(0.03, abs=0.02)
    assert watch.seconds["backward"] == pytest.approx(0.06, abs=0.03)
    assert "nothing" not in watch.seconds


def test_reset_within_a_stage() -> None:
    watch = Stopwatch()
    time.sleep(0.05)
    with watch.stage("work"):
        watch.reset()
        time.sleep(0.01)
    assert watch.total < 0.04
    assert list(watch.seconds) == ["work"]
