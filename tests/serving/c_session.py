"""SavedModels in TensorFlow's C API, which needs no Python: what a server does.

`TF_LoadSessionFromSavedModel` is a face of `tensorflow::LoadSavedModel`, the
loader of TensorFlow Serving, and `TF_SessionRun` of `Session::Run`. Both are in
the library of TensorFlow's own wheel. As a program,

    python c_session.py JOBS.json

runs jobs in a process that never imports TensorFlow's Python package, and
prints what came of them as JSON; see `run_jobs`.
"""

import ctypes
import functools
import importlib.util
import json
import sys
from pathlib import Path

import numpy as np

# TF_DataType
_DTYPES = {
    1: np.dtype(np.float32),
    2: np.dtype(np.float64),
    3: np.dtype(np.int32),
    4: np.dtype(np.uint8),
    9: np.dtype(np.int64),
}
_CODES = {dtype: code for code, dtype in _DTYPES.items()}
_STRING = 7
_STRING_VIEW = 3  # type of a TF_TString that points to bytes of someone else


class Failed(Exception):
    """A status that is not OK.

    Attributes:
        code: that of absl, which is also that of gRPC.
        message: what TensorFlow says.
    """

    def __init__(self, code, message):
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message


class _Output(ctypes.Structure):
    _fields_ = [("operation", ctypes.c_void_p), ("index", ctypes.c_int)]


class _Buffer(ctypes.Structure):
    _fields_ = [
        ("data", ctypes.c_void_p),
        ("length", ctypes.c_size_t),
        ("deallocator", ctypes.c_void_p),
    ]


class _String(ctypes.Structure):
    _fields_ = [
        ("size_and_type", ctypes.c_size_t),
        ("pointer", ctypes.c_void_p),
        ("unused", ctypes.c_size_t),
    ]


@functools.cache
def _library():
    package = Path(importlib.util.find_spec("tensorflow").origin).parent
    library = ctypes.CDLL(str(package / "libtensorflow_cc.so.2"))
    pointer, text = ctypes.c_void_p, ctypes.c_char_p
    for name, result, arguments in (
        ("TF_NewStatus", pointer, []),
        ("TF_DeleteStatus", None, [pointer]),
        ("TF_GetCode", ctypes.c_int, [pointer]),
        ("TF_Message", text, [pointer]),
        ("TF_NewGraph", pointer, []),
        ("TF_DeleteGraph", None, [pointer]),
        ("TF_NewSessionOptions", pointer, []),
        ("TF_DeleteSessionOptions", None, [pointer]),
        ("TF_NewBuffer", ctypes.POINTER(_Buffer), []),
        ("TF_DeleteBuffer", None, [ctypes.POINTER(_Buffer)]),
        ("TF_LoadSessionFromSavedModel", pointer, None),
        ("TF_CloseSession", None, [pointer, pointer]),
        ("TF_DeleteSession", None, [pointer, pointer]),
        ("TF_SessionRun", None, None),
        ("TF_GraphOperationByName", pointer, [pointer, text]),
        (
            "TF_AllocateTensor",
            pointer,
            [ctypes.c_int, pointer, ctypes.c_int, ctypes.c_size_t],
        ),
        ("TF_DeleteTensor", None, [pointer]),
        ("TF_TensorData", pointer, [pointer]),
        ("TF_TensorByteSize", ctypes.c_size_t, [pointer]),
        ("TF_TensorType", ctypes.c_int, [pointer]),
        ("TF_NumDims", ctypes.c_int, [pointer]),
        ("TF_Dim", ctypes.c_int64, [pointer, ctypes.c_int]),
        (
            "TF_GetRegisteredKernelsForOp",
            ctypes.POINTER(_Buffer),
            [text, pointer],
        ),
    ):
        function = getattr(library, name)
        function.restype = result
        if arguments is not None:
            function.argtypes = arguments
    return library


class _Status:
    """Holds a TF_Status; leaving its block raises what it says."""

    def __enter__(self):
        self._status = ctypes.c_void_p(_library().TF_NewStatus())
        return self._status

    def __exit__(self, *_):
        code = _library().TF_GetCode(self._status)
        message = _library().TF_Message(self._status).decode()
        _library().TF_DeleteStatus(self._status)
        if code:
            raise Failed(code, message)


class Session:
    """A SavedModel in a session.

    Attributes:
        meta_graph: the MetaGraphDef, serialized.
    """

    def __init__(self, version_directory):
        library = _library()
        options = ctypes.c_void_p(library.TF_NewSessionOptions())
        meta_graph = library.TF_NewBuffer()
        tags = (ctypes.c_char_p * 1)(b"serve")
        self._graph = ctypes.c_void_p(library.TF_NewGraph())
        try:
            with _Status() as status:
                self._session = ctypes.c_void_p(
                    library.TF_LoadSessionFromSavedModel(
                        options,
                        None,
                        str(version_directory).encode(),
                        tags,
                        1,
                        self._graph,
                        meta_graph,
                        status,
                    )
                )
            self.meta_graph = _content(meta_graph)
        finally:
            library.TF_DeleteBuffer(meta_graph)
            library.TF_DeleteSessionOptions(options)

    def close(self):
        """Frees the session; it must not be used any more."""
        for function in ("TF_CloseSession", "TF_DeleteSession"):
            with _Status() as status:
                getattr(_library(), function)(self._session, status)
        _library().TF_DeleteGraph(self._graph)

    def run(self, feeds, fetches):
        """Computes tensors.

        Args:
            feeds: from names of tensors ("serve_image:0") to arrays; those of
                dtype object or S hold bytes.
            fetches: names of tensors.

        Returns:
            A list of arrays.

        Raises:
            Failed: with what TensorFlow says.
        """
        library = _library()
        inputs = [_tensor(np.asarray(value)) for value in feeds.values()]
        results = (ctypes.c_void_p * len(fetches))()
        try:
            with _Status() as status:
                library.TF_SessionRun(
                    self._session,
                    None,
                    self._outputs(feeds),
                    (ctypes.c_void_p * len(inputs))(*inputs),
                    len(inputs),
                    self._outputs(fetches),
                    results,
                    len(fetches),
                    None,
                    0,
                    None,
                    status,
                )
            return [_array(ctypes.c_void_p(result)) for result in results]
        finally:
            for tensor in [*inputs, *results]:
                if tensor:
                    library.TF_DeleteTensor(tensor)

    def _outputs(self, names):
        outputs = (_Output * len(names))()
        for output, name in zip(outputs, names, strict=True):
            operation, _, index = name.partition(":")
            output.operation = _library().TF_GraphOperationByName(
                self._graph, operation.encode()
            )
            output.index = int(index)
        return outputs


def has_kernel(op):
    """Tells whether the stock library can compute an operation at all."""
    with _Status() as status:
        kernels = _library().TF_GetRegisteredKernelsForOp(op.encode(), status)
    found = kernels.contents.length > 0
    _library().TF_DeleteBuffer(kernels)
    return found


def _content(buffer):
    return ctypes.string_at(buffer.contents.data, buffer.contents.length)


def _tensor(array):
    library = _library()
    shape = (ctypes.c_int64 * array.ndim)(*array.shape)
    if array.dtype.kind not in "OS":
        content = np.ascontiguousarray(array).tobytes()
        code = _CODES[array.dtype]
    else:
        strings = [
            _String(
                len(value) << 2 | _STRING_VIEW,
                ctypes.cast(ctypes.c_char_p(value), ctypes.c_void_p).value,
            )
            for value in array.astype(object).ravel()
        ]
        content = b"".join(bytes(string) for string in strings)
        code = _STRING
    tensor = library.TF_AllocateTensor(code, shape, array.ndim, len(content))
    ctypes.memmove(library.TF_TensorData(tensor), content, len(content))
    return tensor


def _array(tensor):
    library = _library()
    shape = [
        library.TF_Dim(tensor, axis)
        for axis in range(library.TF_NumDims(tensor))
    ]
    content = ctypes.string_at(
        library.TF_TensorData(tensor), library.TF_TensorByteSize(tensor)
    )
    dtype = _DTYPES[library.TF_TensorType(tensor)]
    return np.frombuffer(content, dtype).reshape(shape)


def run_jobs(jobs):
    """Runs SavedModels and looks for kernels.

    Args:
        jobs: {"runs": [{"path", "feeds": {tensor: file.npy}, "fetches":
            {name: tensor}, "output": file.npz}], "ops": [names]}.

    Returns:
        {"errors": [None or message for each run], "without_kernel": [ops]}.
    """
    sessions, errors = {}, []
    for run in jobs["runs"]:
        try:
            path = run["path"]
            if path not in sessions:
                sessions[path] = Session(path)
            feeds = {name: np.load(f) for name, f in run["feeds"].items()}
            values = sessions[path].run(feeds, list(run["fetches"].values()))
            np.savez(
                run["output"], **dict(zip(run["fetches"], values, strict=True))
            )
            errors.append(None)
        except Failed as failed:
            errors.append(str(failed))
    missing = [op for op in jobs["ops"] if not has_kernel(op)]
    return {"errors": errors, "without_kernel": missing}


if __name__ == "__main__":
    outcome = run_jobs(json.loads(Path(sys.argv[1]).read_text()))
    assert "tensorflow" not in sys.modules
    json.dump(outcome, sys.stdout)
