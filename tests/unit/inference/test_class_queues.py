"""Interactive lines go first, and lines of batches go on."""

from dataclasses import dataclass

from services.inference.class_queues import INTERACTIVE_IN_A_ROW, ClassQueues
from services.inference.micro_batch import MicroBatches


@dataclass(frozen=True)
class Line:
    name: str
    is_interactive: bool
    deadline_s: int = 0
    prompt: bytes = b""


def filled(num_interactive: int, num_batch: int) -> ClassQueues[Line]:
    queues: ClassQueues[Line] = ClassQueues(MicroBatches)
    queues.add([Line("b", False)] * num_batch + [Line("i", True)] * num_interactive)
    return queues


def names(queues: ClassQueues[Line]) -> str:
    found = ""
    while (line := queues.pop()) is not None:
        found += line.name
    return found


def test_interactive_lines_overtake_and_batches_keep_a_floor() -> None:
    assert names(filled(20, 3)) == ("i" * INTERACTIVE_IN_A_ROW + "b") * 2 + "iiiiii" + "b"


def test_one_class_alone_has_everything() -> None:
    assert names(filled(20, 0)) == "i" * 20
    assert names(filled(0, 3)) == "bbb"


def test_reserve_is_for_interactive_lines_only() -> None:
    queues = filled(1, 5)

    assert queues.pop(only_interactive=True) == Line("i", True)
    assert queues.pop(only_interactive=True) is None
    assert queues.pop() == Line("b", False)


def test_unwanted_lines_of_both_classes_are_taken_out() -> None:
    queues = filled(2, 3)

    assert len(queues.remove(lambda line: line.name == "i")) == 2
    assert names(queues) == "bbb"
