"""Which files hold embeddings, by their names. Torch-free."""

from pathlib import Path

from fullrank.record import RECORD_FILE

ENDINGS = (".npy", ".npz", ".safetensors", ".parquet")
# Tables and arrays that are not read, with the way to a file that is.
CONVERTED = {
    ".csv": "numpy.save(NAME, numpy.loadtxt(FILE, delimiter=','))",
    ".tsv": "numpy.save(NAME, numpy.loadtxt(FILE, delimiter='\\t'))",
    ".h5": "numpy.save(NAME, h5py.File(FILE)[KEY][:])",
    ".hdf5": "numpy.save(NAME, h5py.File(FILE)[KEY][:])",
}


def is_embeddings(target: object) -> bool:
    """Whether a target is a file of embeddings, or a folder of such files. A missing file counts too.

    So does a table, such as `.csv`, whose reader says how to convert it.

    >>> is_embeddings("features.npy"), is_embeddings("resnet18")
    (True, False)
    """
    if not isinstance(target, str | Path):
        return False
    path = Path(target)
    if path.is_dir():
        names = [each.name for each in path.iterdir()]
        # The folders of a run and of a Hugging Face model hold files of tensors too.
        holds_model = RECORD_FILE in names or "config.json" in names
        return not holds_model and any(Path(name).suffix.lower() in ENDINGS for name in names)
    return path.suffix.lower() in (*ENDINGS, *CONVERTED)
