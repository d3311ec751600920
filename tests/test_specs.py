import pytest
from hypothesis import given, strategies as st
from refusals import refuses

from fullrank.errors import UsageError
from fullrank.files import expanded
from fullrank.heads import HEADS
from fullrank.registry import Entry, Registry
from fullrank.specs import Parameter, split_specs


@pytest.fixture
def registry() -> Registry:
    registry = Registry("thing", "things")
    options = (
        Parameter("size", int, "a size", 3),
        Parameter("path", str, "a path"),
        Parameter("fast", bool, "go fast", False),
        Parameter("blocks", tuple, "how many", (1, 2)),
    )
    value = Parameter("rate", float, "a rate", 0.5)
    registry.register(Entry("thing", "builtins:dict", "a thing", "nowhere", value, options, aliases=("it",)))
    return registry


@pytest.fixture
def opened(registry) -> Registry:
    """The same, beside every part of a library."""
    options = (Parameter("deep", bool, "go deep", False),)
    other = Entry("theirs/NAME", "builtins:dict", "a part of theirs", "nowhere", options=options)
    opened = Registry("thing", "things", other)
    opened.register(registry["thing"])
    return opened


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("none", "none"),
        ("directclr", "subvector:360"),
        ("linear", "linear:128"),
        ("mlp:128,layers=2", "mlp:128"),
        ("mlp:128,layers=3,hidden=7", "mlp:128,hidden=7,layers=3"),
        (" none , norm = batch ", "none,norm=batch"),
        ("reweight:1.050", "reweight:1.05"),
    ],
)
def test_canonical_form_of_heads(text, canonical):
    assert str(HEADS.parse(text)) == canonical


def test_build_passes_typed_values_and_defaults(registry):
    built = registry.build("it:2,fast=true,blocks=3-4,path=x", colour="red")
    assert built == {"rate": 2.0, "fast": True, "blocks": (3, 4), "size": 3, "path": "x", "colour": "red"}


@given(path=st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1))
def test_any_word_survives_writing_and_reading(path):
    registry = Registry("thing", "things")
    registry.register(Entry("file", "builtins:dict", "", "", Parameter("path", str, "", required=True)))
    quoted = '"' + path.replace("\\", "\\\\").replace('"', '\\"') + '"'
    spec = registry.parse(f"file:{quoted}")
    assert spec.value == path
    assert registry.parse(str(spec)) == spec
    assert split_specs(f"{spec},a:1") == [str(spec), "a:1"]


@given(
    st.lists(st.sampled_from(["none", "linear:48", "mlp:8,hidden=4,layers=3", "none,norm=batch"]), min_size=1)
)
def test_splitting_a_list_undoes_joining_it(specs):
    assert split_specs(",".join(specs)) == specs


def test_paths_keep_their_colons_and_equals():
    assert split_specs("folder:/a=b:c,digits") == ["folder:/a=b:c", "digits"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("linaer:3", ["linaer", "linear"]),
        ("linear:many", ["out_dim", "whole number", "many"]),
        ("none:3", ["none", "value", "3"]),
        ("none,nrom=batch", ["nrom", "norm"]),
        ("none,norm=layer", ["norm", "none, batch, centre, scale", "layer"]),
        ("none,norm", ["key=value", "norm"]),
        ("none,norm=batch,norm=none", ["norm", "twice"]),
        ('folder:"x', ["double quote"]),
    ],
)
def test_a_bad_spec_is_one_sentence_that_names_the_fault(text, words):
    with refuses(UsageError, *words) as error:
        HEADS.parse(text)
    assert error.value.exit_status == 2
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["", "a,,b", "norm=batch"])
def test_a_bad_list_raises(text):
    with pytest.raises(UsageError):
        split_specs(text)


def test_a_taken_name_cannot_be_registered_again(registry):
    for name in ("thing", "it"):
        with refuses(UsageError, "thing", name, "taken"):
            registry.register(Entry(name, "builtins:dict", "", ""))


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("net_18", "net_18"),
        ("theirs/net_18.a1,deep=true", "net_18.a1,deep=true"),
        ("net_18,deep=false", "net_18"),
        ("thing", "thing:0.5"),
        ("it:2", "thing:2"),
    ],
)
def test_an_open_entry_takes_the_names_that_nobody_registered(opened, text, canonical):
    assert str(opened.parse(text)) == canonical
    assert str(opened.parse(canonical)) == canonical


def test_an_open_entry_hands_the_name_to_its_builder(opened):
    assert opened.build("theirs/net_18,deep=true", colour="red") == {
        "model": "net_18",
        "deep": True,
        "colour": "red",
    }
    assert "model" not in opened.build("thing")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Thing", ["Unknown thing", "Thing", "mean 'thing'"]),
        ("net-18", ["Unknown thing", "net-18"]),
        ("others/net_18", ["Unknown thing", "others/net_18"]),
        ("theirs/", ["Unknown thing", "theirs/"]),
        ("theirs/NAME", ["Unknown thing", "theirs/NAME"]),
        ("net_18:3", ["thing 'net_18'", "value", "3"]),
        ("net_18,dep=true", ["option", "net_18", "dep", "mean 'deep'"]),
    ],
)
def test_a_name_or_option_that_cannot_be_the_librarys_is_unknown_at_once(opened, text, words):
    with refuses(UsageError, *words):
        opened.parse(text)


def test_an_open_entry_is_listed_as_one_row(opened, registry):
    assert [entry.usage for entry in opened] == ["thing[:RATE][,KEY=VALUE]", "theirs/NAME[,KEY=VALUE]"]
    assert len(opened) == 2 and len(registry) == 1


@pytest.mark.parametrize(
    ("text", "shown"),
    [("~no-such-user/data", "~no-such-user/data"), ("~a\0b", r"~a\x00b"), ("~\0", r"~\x00")],
)
def test_what_is_no_path_is_a_usage_error(text, shown):
    with refuses(UsageError) as error:
        expanded(text)
    assert shown in str(error.value).replace("\\\\", "\\")
