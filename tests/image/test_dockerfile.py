"""The `--link` pass, against examples and against Dockerfiles put together at random."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rekindle.core.errors import BuildFailed
from rekindle.image.dockerfile import without_link

SAME = [
    "FROM a\nRUN echo --link\n",
    "FROM a\nCOPY a --link b\n",  # not a flag: it stands behind a source
    'FROM a\nCOPY ["--link", "b"]\n',
    "FROM a\nRUN <<EOF\nCOPY --link a b\nEOF\nRUN true\n",
    "FROM a\nRUN <<-EOF\n\tCOPY --link a b\n\tEOF\nCOPY a b\n",
    "FROM a\nCOPY <<A <<'B' /d/\nCOPY --link 1 2\nA\nADD --link 1 2\nB\n",
    "FROM a\n# COPY --link a b\n",
    "FROM a\nRUN echo \\\n  COPY --link a b\n",
    "FROM a\nLABEL x='COPY --link'\n",
    "FROM a\nCOPY --linked a b\nCOPY --from=link a b\n",
    "FROM a\nENV x=<<EOF\n",
    "",
    "FROM a",
]
CHANGED = [
    ("COPY --link a b\n", "COPY a b\n"),
    ("copy --LINK=true a b", "copy a b"),
    ("ADD --link=false --chown=1:2 a b\n", "ADD --chown=1:2 a b\n"),
    ("COPY --chown=1:2  --link a b\n", "COPY --chown=1:2 a b\n"),
    ("COPY --from=x --link --chmod=755 a b\r\n", "COPY --from=x --chmod=755 a b\r\n"),
    ("ONBUILD COPY --link a b\n", "ONBUILD COPY a b\n"),
    ("COPY \\\n  --link \\\n  a b\n", "COPY\\\n \\\n  a b\n"),
    ("COPY \\\n# --link in a comment\n\n  --link a b\n", "COPY\\\n# --link in a comment\n\n a b\n"),
    ("COPY --li\\\nnk a b\n", "COPY\\\n a b\n"),
    ("# escape=`\nCOPY `\n --link a b\n", "# escape=`\nCOPY`\n a b\n"),
    ("# escape=`\nRUN dir c:\\\nCOPY --link a b\n", "# escape=`\nRUN dir c:\\\nCOPY a b\n"),
    (
        "# syntax=docker/dockerfile:1\n# escape=`\nCOPY --link a `\n b\n",
        "# syntax=docker/dockerfile:1\n# escape=`\nCOPY a `\n b\n",
    ),
    ("RUN cat <<EOF\nEOF\nCOPY --link a b\n", "RUN cat <<EOF\nEOF\nCOPY a b\n"),
    ("RUN echo 'a <<EOF'\nCOPY --link a b\n", "RUN echo 'a <<EOF'\nCOPY a b\n"),
    ("COPY --link <<EOF /f\nCOPY --link a b\nEOF\n", "COPY <<EOF /f\nCOPY --link a b\nEOF\n"),
    ("RUN cat 3<<'E F'\nCOPY --link\nE F\nADD --link a b", "RUN cat 3<<'E F'\nCOPY --link\nE F\nADD a b"),
]


@pytest.mark.parametrize("source", SAME)
def test_it_leaves_everything_else_alone(source: str) -> None:
    assert without_link(source) == source


@pytest.mark.parametrize(("source", "expected"), CHANGED)
def test_it_drops_the_flag(source: str, expected: str) -> None:
    assert without_link(source) == expected


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("COPY --parents a b", "COPY --parents"),
        ("ADD --exclude=*.md a b", "ADD --exclude"),
        ("COPY --link --exclude=x a b", "COPY --exclude"),
        ("RUN --security=insecure true", "RUN --security"),
        ("RUN --mount=type=secret,id=x,env=X true", "RUN --mount=type=secret,env="),
    ],
)
def test_it_names_what_the_builder_lacks_and_where(line: str, named: str) -> None:
    with pytest.raises(BuildFailed) as failed:
        without_link(f"FROM a\n\n{line}\n")
    assert failed.value.code == "CONTAINER_BUILD_FAILED"
    assert failed.value.message == f"Dockerfile line 3: {named} is not supported by this builder"


# Every piece carries its own expected text: whole files are checked against something the module did not compute.
WORDS = st.sampled_from(["a", "./b/", "--", "x--link", "'a b'", '"--link"', "$X", "https://h/f", "<", "--link"])
KEPT_FLAGS = st.sampled_from(["--chown=1:2", "--chmod=755", "--from=stage", '--from="a b"'])
LINKS = st.sampled_from(["--link", "--link=true", "--LINK", "--link=false"])
BODY_LINES = st.sampled_from(["COPY --link a b", "ADD --link \\", "# x", "", "<<OTHER", "EOF2", " EOF", "'", '"'])


@st.composite
def copies(draw: st.DrawFn) -> tuple[str, str]:
    verb = draw(st.sampled_from(["COPY", "ADD", "copy", "Add", "ONBUILD COPY"]))
    flags = draw(st.lists(st.one_of(KEPT_FLAGS.map(lambda flag: (flag, False)), LINKS.map(lambda flag: (flag, True)))))
    gaps = [draw(st.sampled_from([" ", "  ", "\t"])) for _ in flags]
    words = " a " + " ".join(draw(st.lists(WORDS, min_size=1, max_size=3)))
    before = "".join(gap + flag for gap, (flag, _) in zip(gaps, flags, strict=True))
    after = "".join(gap + flag for gap, (flag, link) in zip(gaps, flags, strict=True) if not link)
    return f"{verb}{before}{words}\n", f"{verb}{after}{words}\n"


@st.composite
def others(draw: st.DrawFn) -> tuple[str, str]:
    body = "\n".join(draw(st.lists(BODY_LINES, max_size=4)))
    form = draw(
        st.sampled_from(["RUN cat <<EOF\n{}\nEOF\n", "COPY <<'EOF' /f\n{}\nEOF\n", "RUN <<-EOF sh\n{}\n\tEOF\n"])
    )
    plain = draw(
        st.sampled_from(
            ["RUN echo COPY --link\n", "# COPY --link a b\n", "\n", "ENV A=--link\n", "RUN a \\\n --link\n"]
        )
    )
    text = draw(st.sampled_from([form.format(body), plain]))
    return text, text


@given(st.lists(st.one_of(copies(), others()), max_size=8))
def test_whole_files(pieces: list[tuple[str, str]]) -> None:
    source, expected = ("".join(side) for side in zip(*pieces, strict=True)) if pieces else ("", "")
    assert without_link(source) == expected


@given(st.text(alphabet="COPYADRUNlink-= \\\n\t\"'<EF#`", max_size=200))
def test_any_text_is_read_to_its_end_and_only_shrinks(source: str) -> None:
    try:
        result = without_link(source)
    except BuildFailed:
        return
    remaining = iter(source)
    assert all(char in remaining for char in result)
    assert result.count("\n") == source.count("\n")


@given(st.lists(st.one_of(copies(), others()), max_size=8))
def test_twice_is_once(pieces: list[tuple[str, str]]) -> None:
    once = without_link("".join(source for source, _ in pieces))
    assert without_link(once) == once
