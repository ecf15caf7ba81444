"""What all tests share: the smoke set runs first; each test begins with the same numbers, on the best ISA."""

import signal
import sys

import pytest


def pytest_configure():
    # Started in the background by a shell, pytest and its children ignore SIGINT, which the tests of Ctrl-C send.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: item.get_closest_marker("smoke") is None)


def pytest_generate_tests(metafunc):
    if "kernel_isa" in metafunc.fixturenames:
        import fastcnn._core as core

        names = [name for name in core.available_isas() if name != "ref"]
        metafunc.parametrize("kernel_isa", names, indirect=True)


@pytest.fixture
def kernel_isa(request):
    """Runs the test with the kernels of one ISA after the other, without the references."""
    import fastcnn._core as core

    core.set_isa(request.param)
    return request.param


@pytest.fixture
def eager_statistics():
    """Plans sum the statistics of batch norms in eager's order, for tests that compare bits."""
    import fastcnn._core as core

    core.give_conv2d_moments(False)
    yield
    core.give_conv2d_moments(True)


@pytest.fixture(autouse=True)
def _own_numbers():
    """Every test begins with the same random numbers, whichever ran before, were skipped or were left out."""
    import fastcnn

    fastcnn.manual_seed(0)
    if "onnx_check" in sys.modules:
        sys.modules["onnx_check"].restart_numbers()


@pytest.fixture(autouse=True)
def _best_isa_again():
    yield
    import fastcnn._core as core

    if core.isa() != core.available_isas()[0]:
        core.set_isa(core.available_isas()[0])
