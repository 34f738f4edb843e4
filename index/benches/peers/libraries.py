"""The libraries that the index is compared with, each behind the same few calls.

Settings are those of `measure.py` for all: degree `2 * M` on the bottom layer, the same candidates while building, one
search thread, answers by the library's own call for many queries where it has one (VSAG and NGT answer one a call, and
pay for Python's part of it). Vectors have length one unless the data says otherwise, so every distance orders alike.

    build(base, threads)    makes the index in memory
    save(path) -> bytes     writes it, and says how much
    open(path)              reads it into memory
    open_mapped(path)       maps it instead, where the library can
    answer(queries, k, parameter) -> ids, queries x k
    PARAMETERS              what is turned for recall: from fast to exact
    answer_filtered         the same over the rows that a mask allows, where the library can
"""

import importlib
import json
import time
from importlib import metadata
from pathlib import Path

import numpy as np

M = 16
EF_CONSTRUCTION = 200
EFS = [10, 20, 40, 80, 160, 320]


def bytes_of(path):
    path = Path(path)
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file()) if path.is_dir() else path.stat().st_size


class Library:
    PARAMETERS = EFS
    PARAMETER = "ef"
    PACKAGE = None
    #: What is imported, where it is not the package's name.
    MODULE = None
    #: Stores vectors in fewer bytes than f32, or keeps them beside a smaller form.
    QUANTISED = False
    DISTANCES = ("cosine", "euclid", "dot")

    open_mapped = answer_filtered = None

    def __init__(self, dim, distance, scratch=None):
        """`scratch` is a folder for those that cannot do without files while building."""
        self.dim, self.distance, self.scratch = dim, distance, scratch

    @classmethod
    def version(cls):
        return metadata.version(cls.PACKAGE)

    @classmethod
    def load(cls):
        """Imports it, so that no clock does."""
        importlib.import_module(cls.MODULE or cls.PACKAGE)

    @property
    def inner_product(self):
        return self.distance != "euclid"


class Hnswlib(Library):
    PACKAGE = "hnswlib"

    def _new(self):
        import hnswlib

        return hnswlib.Index("ip" if self.inner_product else "l2", self.dim)

    def build(self, base, threads):
        self.index = self._new()
        self.index.init_index(len(base), ef_construction=EF_CONSTRUCTION, M=M)
        self.index.add_items(base, num_threads=threads)

    def save(self, path):
        self.index.save_index(str(path))
        return bytes_of(path)

    def open(self, path):
        self.index = self._new()
        self.index.load_index(str(path))

    def answer(self, queries, k, ef):
        self.index.set_ef(ef)
        return self.index.knn_query(queries, k=k, num_threads=1)[0]


class Usearch(Library):
    PACKAGE = "usearch"
    DTYPE = "f32"

    def _new(self):
        from usearch.index import Index

        metric = "ip" if self.inner_product else "l2sq"
        return Index(ndim=self.dim, metric=metric, dtype=self.DTYPE, connectivity=M, expansion_add=EF_CONSTRUCTION)

    def build(self, base, threads):
        self.index = self._new()
        self.index.add(np.arange(len(base)), base, threads=threads)

    def save(self, path):
        self.index.save(str(path))
        return bytes_of(path)

    def open(self, path):
        self.index = self._new()
        self.index.load(str(path))

    def open_mapped(self, path):
        self.index = self._new()
        self.index.view(str(path))

    def answer(self, queries, k, ef):
        self.index.expansion_search = ef
        keys = self.index.search(queries, k, threads=1).keys
        return np.asarray(keys).reshape(len(queries), k)


class UsearchBf16(Usearch):
    DTYPE = "bf16"
    QUANTISED = True


class Faiss(Library):
    PACKAGE = "faiss-cpu"
    MODULE = "faiss"

    def _metric(self):
        import faiss

        return faiss.METRIC_INNER_PRODUCT if self.inner_product else faiss.METRIC_L2

    def _new(self):
        import faiss

        return faiss.IndexHNSWFlat(self.dim, M, self._metric())

    def _hnsw(self):
        return self.index.hnsw

    def build(self, base, threads):
        import faiss

        faiss.omp_set_num_threads(threads)
        self.index = self._new()
        self._hnsw().efConstruction = EF_CONSTRUCTION
        self.index.train(base)
        self.index.add(base)
        faiss.omp_set_num_threads(1)

    def save(self, path):
        import faiss

        faiss.write_index(self.index, str(path))
        return bytes_of(path)

    def open(self, path):
        import faiss

        faiss.omp_set_num_threads(1)
        self.index = faiss.read_index(str(path))

    def open_mapped(self, path):
        import faiss

        faiss.omp_set_num_threads(1)
        # IO_FLAG_MMAP concerns inverted files only: an HNSW index would be read all the same.
        self.index = faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC)

    def _parameters(self, ef, selector=None):
        import faiss

        return faiss.SearchParametersHNSW(efSearch=ef, sel=selector)

    def answer(self, queries, k, ef):
        return self.index.search(queries, k, params=self._parameters(ef))[1]

    def selector(self, mask):
        """The rows that a mask allows, for `answer_filtered`."""
        import faiss

        return faiss.IDSelectorBitmap(np.packbits(mask, bitorder="little"))

    def answer_filtered(self, queries, k, ef, selector):
        return self.index.search(queries, k, params=self._parameters(ef, selector))[1]


class FaissSq8Refine(Faiss):
    QUANTISED = True
    #: Twice the neighbours are compared again by their f32 rows.
    REFINE = 2

    def _new(self):
        import faiss

        self.coarse = faiss.IndexHNSWSQ(self.dim, faiss.ScalarQuantizer.QT_8bit, M, self._metric())
        return faiss.IndexRefineFlat(self.coarse)

    def _hnsw(self):
        return self.coarse.hnsw

    def _parameters(self, ef, selector=None):
        import faiss

        base = faiss.SearchParametersHNSW(efSearch=ef, sel=selector)
        return faiss.IndexRefineSearchParameters(k_factor=self.REFINE, base_index_params=base)

    open_mapped = answer_filtered = None


class SymphonyQG(Library):
    PACKAGE = "rabitqlib"
    QUANTISED = True
    PARAMETERS = EFS + [640]
    BITS = 0

    def build(self, base, threads):
        import rabitqlib

        self.index = rabitqlib.SymqgIndex(self.dim, 2 * M, "ip" if self.inner_product else "l2", self.BITS)
        self.index.build(base, EF_CONSTRUCTION, threads)

    def save(self, path):
        self.index.save(str(path))
        return bytes_of(path)

    def open(self, path):
        import rabitqlib

        self.index = rabitqlib.SymqgIndex.load(str(path))

    def answer(self, queries, k, ef):
        return self.index.search_batch(queries, k, ef, 1)[0]


class Vsag(Library):
    PACKAGE = "pyvsag"
    QUANTISED = True
    #: Of the codes that a walk compares.
    CODES = "sq8_uniform"

    def _new(self):
        import pyvsag

        pyvsag.set_logger_off()
        parameters = {
            "dtype": "float32", "metric_type": "ip" if self.inner_product else "l2", "dim": self.dim,
            "index_param": {
                "base_quantization_type": self.CODES, "use_reorder": True, "precise_quantization_type": "fp32",
                "max_degree": 2 * M, "ef_construction": EF_CONSTRUCTION, "build_thread_count": self.threads, **self._rows(),
            },
        }
        return pyvsag.Index("hgraph", json.dumps(parameters))

    threads = 1

    def _rows(self):
        """Where the full rows lie: in memory."""
        return {}

    def build(self, base, threads):
        self.threads = threads
        self.index = self._new()
        self.index.build(base.ravel(), np.arange(len(base)), len(base), self.dim)

    def save(self, path):
        self.index.save(str(path))
        return bytes_of(path)

    def open(self, path):
        self.index = self._new()
        self.index.load(str(path))

    def answer(self, queries, k, ef):
        parameters = json.dumps({"hgraph": {"ef_search": ef}})
        found = np.full((len(queries), k), -1, np.int64)
        for row, query in enumerate(queries):
            ids = self.index.knn_search(query, k, parameters)[0]
            found[row, : len(ids)] = ids
        return found


class Ngt(Library):
    """The plain graph (ANNG) with its tree. Its quantised forms need programs that the wheel does not bring."""

    PACKAGE = "ngt"
    MODULE = "ngtpy"
    PARAMETER = "epsilon"
    PARAMETERS = [0.0, 0.02, 0.05, 0.1, 0.15, 0.2]

    def build(self, base, threads):
        import ngtpy

        # It lives in a folder from the start.
        self.folder = Path(self.scratch) / "ngt-building"
        kinds = {"cosine": "Normalized Cosine", "euclid": "L2", "dot": "Inner product"}
        ngtpy.create(str(self.folder), self.dim, distance_type=kinds[self.distance], edge_size_for_creation=M, edge_size_for_search=2 * M)
        self.index = ngtpy.Index(str(self.folder), log_disabled=True)
        self.index.batch_insert(base, num_threads=threads)

    def save(self, path):
        import shutil

        self.index.save()
        shutil.rmtree(path, ignore_errors=True)
        shutil.move(str(self.folder), str(path))
        return bytes_of(path)

    def open(self, path):
        import ngtpy

        self.index = ngtpy.Index(str(path), read_only=True, log_disabled=True)

    def answer(self, queries, k, epsilon):
        found = np.full((len(queries), k), -1, np.int64)
        for row, query in enumerate(queries):
            ids = self.index.search(query, k, epsilon, with_distance=False)
            found[row, : len(ids)] = ids
        return found


class Scann(Library):
    PACKAGE = "scann"
    QUANTISED = True
    PARAMETER = "leaves"
    PARAMETERS = [2, 5, 10, 20, 40, 80, 160]
    #: Candidates compared again by their full rows.
    REORDER = 100
    #: Are those rows int8, instead of f32?
    INT8_ROWS = False

    def build(self, base, threads):
        import scann

        leaves = max(8, int(2 * len(base) ** 0.5))
        kind = "dot_product" if self.inner_product else "squared_l2"
        builder = scann.scann_ops_pybind.builder(base, 10, kind).set_n_training_threads(threads)
        builder = builder.tree(num_leaves=leaves, num_leaves_to_search=10, training_sample_size=min(len(base), 250_000))
        self.index = builder.score_ah(2, anisotropic_quantization_threshold=0.2).reorder(self.REORDER, quantize=self.INT8_ROWS).build()

    def save(self, path):
        Path(path).mkdir(parents=True, exist_ok=True)
        self.index.serialize(str(path))
        return bytes_of(path)

    def open(self, path):
        import scann

        self.index = scann.scann_ops_pybind.load_searcher(str(path))

    def answer(self, queries, k, leaves):
        ids = self.index.search_batched(queries, leaves_to_search=leaves, pre_reorder_num_neighbors=self.REORDER, final_num_neighbors=k)[0]
        return np.asarray(ids)


LIBRARIES = {
    "hnswlib": Hnswlib, "usearch": Usearch, "usearch-bf16": UsearchBf16, "faiss-hnsw": Faiss, "faiss-hnsw-sq8-refine": FaissSq8Refine,
    "symphonyqg": SymphonyQG, "vsag": Vsag, "ngt": Ngt, "scann": Scann,
}


def timed(work):
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result
