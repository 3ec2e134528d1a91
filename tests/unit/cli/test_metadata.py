import pytest

from cli.errors import CliError
from cli.metadata import parse_metadata


def test_pairs_are_split_at_their_first_equals_sign():
    assert parse_metadata(["team=support", "note=a=b", "empty="]) == {"team": "support", "note": "a=b", "empty": ""}


@pytest.mark.parametrize(
    ("pairs", "told"),
    [
        (["team"], "'team' has no key or no value"),
        (["=x"], "'=x' has no key or no value"),
        (["a=1", "a=2"], "a is given twice"),
    ],
)
def test_what_is_no_pair_is_named_with_its_remedy(pairs, told):
    with pytest.raises(CliError, match=told) as refused:
        parse_metadata(pairs)
    assert refused.value.exit_code == 2 and refused.value.remedy
