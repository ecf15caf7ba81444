"""Predicts through the C API from plain Python, without the package: ctypes_predict.py libfastcnn.so net.fcnn

Prints the scores of a batch of zeros, as hexadecimal floats, one a line. Needs nothing but the standard library.
"""

import ctypes
import sys

MAX_DIMS, FLOAT32, PREDICT = 8, 0, 0


class Tensor(ctypes.Structure):
    """fastcnn_tensor of c_api.h."""

    _fields_ = [
        ("data", ctypes.c_void_p),
        ("dtype", ctypes.c_int),
        ("ndim", ctypes.c_int32),
        ("shape", ctypes.c_int64 * MAX_DIMS),
    ]


class Info(ctypes.Structure):
    """fastcnn_info of c_api.h."""

    _fields_ = [
        ("name", ctypes.c_char_p),
        ("dtype", ctypes.c_int),
        ("ndim", ctypes.c_int32),
        ("shape", ctypes.c_int64 * MAX_DIMS),
    ]


def main(library, path):
    lib = ctypes.CDLL(library)
    lib.fastcnn_last_error.restype = ctypes.c_char_p
    lib.fastcnn_free.argtypes = lib.fastcnn_result_free.argtypes = [ctypes.c_void_p]
    lib.fastcnn_free.restype = lib.fastcnn_result_free.restype = None

    def call(function, *args):
        if function(*args):
            sys.exit(f"{function.__name__}: {lib.fastcnn_last_error().decode()}")

    session, result, info, scores = ctypes.c_void_p(), ctypes.c_void_p(), Info(), Tensor()
    call(lib.fastcnn_load, path.encode(), ctypes.c_int32(0), ctypes.byref(session))
    call(lib.fastcnn_input, session, PREDICT, ctypes.c_size_t(0), ctypes.byref(info))
    shape = [1 if d < 0 else d for d in info.shape[: info.ndim]]
    count = 1
    for d in shape:
        count *= d
    values = (ctypes.c_float * count)()
    image = Tensor(ctypes.cast(values, ctypes.c_void_p), FLOAT32, len(shape), (ctypes.c_int64 * MAX_DIMS)(*shape))
    call(lib.fastcnn_predict, session, ctypes.byref(image), ctypes.c_size_t(1), ctypes.byref(result))
    call(lib.fastcnn_result_tensor, result, ctypes.c_size_t(0), ctypes.byref(scores))
    count = 1
    for d in scores.shape[: scores.ndim]:
        count *= d
    for v in ctypes.cast(scores.data, ctypes.POINTER(ctypes.c_float))[:count]:
        print(float(v).hex())
    lib.fastcnn_result_free(result)
    lib.fastcnn_free(session)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
