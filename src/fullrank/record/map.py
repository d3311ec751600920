"""A map of rows: what a record says of it. The coordinates are in `arrays.npz`."""

from typing import Literal

from pydantic import BaseModel

MapMethod = Literal["pca", "tsne", "umap"]


class RowMap(BaseModel, frozen=True, extra="forbid", allow_inf_nan=False):
    """A map of rows at a place, two coordinates for each. `arrays.npz` has them under `map/`.

    `rows` of `total` rows are drawn; the others are left out by chance, drawn with `seed`. `variance` has the
    shares of the variance that the first and the second principal component hold. `components` leading
    components, which hold a share of `components_variance`, are what t-SNE, UMAP and the clusters see.
    `clusters` counts the clusters of k-means. Of `named` rows that findings name, `named_drawn` are drawn.
    `shown` rows have a picture or a text, as `shown_as` says.
    """

    method: MapMethod
    place: str
    rows: int
    total: int
    seed: int
    variance: tuple[float, float]
    components: int
    components_variance: float
    clusters: int
    named: int = 0
    named_drawn: int = 0
    shown: int = 0
    shown_as: Literal["", "images", "texts"] = ""
