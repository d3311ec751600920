"""The heat map of the places of two nets."""

import pytest
from refusals import assert_names

from fullrank.record import SimilarityMap
from fullrank.reports.diagnosis.similarity import similarity_figure, similarity_panels, similarity_sentence

LONG = "encoder.very.long.name.of.a.block.17"


@pytest.fixture
def beside():
    return SimilarityMap(
        target="start",
        places=["stem", LONG, "h"],
        against=["stem", "h"],
        values=[[0.91, 0.2], [None, None], [0.6, 0.3]],
        rows=500,
    )


def test_a_row_is_a_place_of_this_net_and_its_best_match_is_ringed(beside):
    heat, ring = similarity_figure(beside).data
    assert [list(row) for row in heat.z] == beside.values
    assert heat.customdata[2][0][0] == "h" and heat.customdata[2][0][1] == "stem"
    assert list(zip(ring.y, ring.x, strict=True)) == [(0, 0), (2, 0)]
    figure = similarity_figure(beside)
    assert figure.layout.xaxis.ticktext == ("stem", "h")
    assert len(figure.layout.yaxis.ticktext[1]) < len(LONG) and heat.customdata[1][0][0] == LONG
    assert figure.layout.yaxis.range[0] > figure.layout.yaxis.range[1]  # the image is at the top


def test_the_sentence_names_the_places_that_are_least_and_most_alike(beside):
    sentence = similarity_sentence(beside)
    assert_names(sentence, "stem", 0.91, "h", "0.30", "start")
    assert sentence.index("0.30") < sentence.index("0.91")


def test_of_nets_without_common_places_the_best_match_of_the_last_is_named(beside):
    other = beside.model_copy(update={"against": ["layer1", "layer2"]})
    assert_names(similarity_sentence(other), "h", "layer1", "0.60")


def test_of_equal_matches_the_place_of_the_same_name_is_ringed(beside):
    level = beside.model_copy(update={"values": [[0.9, 0.9], [0.5, 0.2], [0.901, 0.9]]})
    ring = similarity_figure(level).data[1]
    assert list(zip(ring.y, ring.x, strict=True)) == [(0, 0), (1, 0), (2, 1)]


def test_a_map_without_any_value_has_a_sentence_and_no_ring(beside):
    empty = beside.model_copy(update={"values": [[None, None]] * 3})
    assert_names(similarity_sentence(empty), "start")
    assert not similarity_figure(empty).data[1].x
    assert similarity_panels(beside)[0].figure and not similarity_panels(
        beside.model_copy(update={"places": [], "values": []})
    )
