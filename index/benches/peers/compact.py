"""The peers' configurations that hold few bytes a point in memory: codes there, full rows in a mapped file or nowhere.

For the question how fast the others are with as little memory as ours. SymphonyQG keeps a copy of the codes for each
link and full rows in memory (some 4.5 kB a point at 512 dimensions), hnswlib has no codes: neither has such a form.
"""

from pathlib import Path

from libraries import EFS, M, FaissSq8Refine, Scann, Usearch, Vsag, bytes_of


class FaissCodes(FaissSq8Refine):
    """HNSW over scalar-quantised codes in memory, rescored by f32 rows of a mapped file."""

    PARAMETERS = EFS + [640]
    CODES = "QT_8bit"
    #: So many times the neighbours are compared again.
    REFINE = 4

    def _new(self):
        import faiss

        self.coarse = faiss.IndexHNSWSQ(self.dim, getattr(faiss.ScalarQuantizer, self.CODES), M, self._metric())
        return self.coarse

    def build(self, base, threads):
        super().build(base, threads)
        self.base = base

    def save(self, path):
        import faiss

        Path(path).mkdir(parents=True, exist_ok=True)
        rows = faiss.IndexFlat(self.dim, self._metric())
        rows.add(self.base)
        faiss.write_index(rows, str(Path(path) / "rows"))
        faiss.write_index(self.index, str(Path(path) / "codes"))
        return bytes_of(path)

    def open(self, path):
        import faiss

        faiss.omp_set_num_threads(1)
        self.coarse = faiss.read_index(str(Path(path) / "codes"))
        self.rows = faiss.read_index(str(Path(path) / "rows"), faiss.IO_FLAG_MMAP_IFC)
        self.index = faiss.IndexRefine(self.coarse, self.rows)


class FaissSq6(FaissCodes):
    CODES = "QT_6bit"


class FaissSq4(FaissCodes):
    CODES = "QT_4bit"
    REFINE = 10


class UsearchI8(Usearch):
    """No rescoring: it keeps no other rows."""

    DTYPE = "i8"
    QUANTISED = True


class VsagOnDisk(Vsag):
    """Codes in memory, full rows read from a file when candidates are compared again."""

    def _rows(self):
        return {"precise_io_type": "buffer_io", "precise_file_path": str(Path(self.scratch) / f"vsag-rows-{self.CODES}")}


class VsagSq4(VsagOnDisk):
    CODES = "sq4_uniform"


class ScannInt8(Scann):
    """4 bits for 2 dimensions, compared again by int8 rows instead of f32."""

    INT8_ROWS = True


COMPACT = {
    "faiss-hnsw-sq8-mapped-rows": FaissCodes, "faiss-hnsw-sq6-mapped-rows": FaissSq6, "faiss-hnsw-sq4-mapped-rows": FaissSq4,
    "usearch-i8": UsearchI8, "vsag-sq8-rows-on-disk": VsagOnDisk, "vsag-sq4-rows-on-disk": VsagSq4, "scann-int8-rows": ScannInt8,
}
