"""The papers behind the theorems, and statements that name them."""

from dataclasses import dataclass

from fullrank.theory.common.theorem import Statement


@dataclass(frozen=True)
class Paper:
    """Title, authors, venue and address of a paper."""

    title: str
    authors: str
    venue: str
    link: str

    def states(
        self,
        place: str,
        *,
        title: str,
        words: str,
        equation: str,
        letters: tuple[tuple[str, str], ...],
        example: str = "",
    ) -> Statement:
        """A statement with this paper as its source, at `place` in the paper."""
        return Statement(
            title=title,
            words=words,
            equation=equation,
            letters=letters,
            paper=self.title,
            authors=self.authors,
            venue=self.venue,
            link=self.link,
            place=place,
            example=example,
        )


COLLAPSE = Paper(
    "Understanding Dimensional Collapse in Contrastive Self-supervised Learning",
    "Li Jing, Pascal Vincent, Yann LeCun, Yuandong Tian",
    "ICLR 2022",
    "https://arxiv.org/abs/2110.09348",
)
PROJECTION_HEAD = Paper(
    "Investigating the Benefits of Projection Head for Representation Learning",
    "Yihao Xue, Eric Gan, Jiayi Ni, Siddharth Joshi, Baharan Mirzasoleiman",
    "ICLR 2024",
    "https://arxiv.org/abs/2403.11391",
)
