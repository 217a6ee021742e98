"""Questions that people ask, with their answers: Perl's FAQ and Python's.

Perl's is under the Artistic License or the GPL, Python's under PSF-2.0.
"""

import re
from typing import NamedTuple

from taskvec.core.errors import InputError
from taskvec.integrations.train.texts.archive import Archive, collapse

# Packages, where their texts lie, and a question with what follows up to the next heading.
PERL = "perl-doc", "usr/share/perl/*/pod/perlfaq?.pod"
PYTHON = "python3.11-doc", "usr/share/doc/python3.11/html/_sources/faq/*.rst.txt"
POD_QUESTION = re.compile(r"^=head2 ([^\n]+\?)\n(.*?)(?=^=head|^=cut|\Z)", re.DOTALL | re.MULTILINE)
RST_QUESTION = re.compile(
    r"^(\S[^\n]+\?)\n-{4,}\n(.*?)(?=^[^\n]+\n[-=]{4,}\n|\Z)", re.DOTALL | re.MULTILINE
)
# X<an index entry>; C<code>, L<text|link>, I<word> and the like, whose text is kept. Directives,
# :role:`text`, ``code``.
POD_MARK = re.compile(r"X<[^<>]*>|[A-WYZ]<+\s*([^<>|]*)(?:\|[^<>]*)?\s*>+")
RST_MARK = re.compile(r"^\.\. .*$|:[\w:]+:(?=`)|[`*]+()", re.MULTILINE)
# Lines of code stand indented.
CODE = re.compile(r"^[ \t]+\S.*$", re.MULTILINE)
MIN_CHARS = 60


class Question(NamedTuple):
    """A question and its answer's prose, without code."""

    question: str
    answer: str


def questions(archive: Archive) -> list[Question]:
    """All questions that a few words of prose answer.

    Raises InputError where a package holds none: it has moved its texts.
    """
    found = []
    for (package, pattern), question, mark in (
        (PERL, POD_QUESTION, POD_MARK),
        (PYTHON, RST_QUESTION, RST_MARK),
    ):
        paths = sorted(archive.package(package).glob(pattern))
        read = [pair for path in paths for pair in question.findall(path.read_text("utf-8"))]
        if not read:
            raise InputError(f"{package} holds no question in {pattern}")
        found += [Question(_plain(asked, mark), _plain(told, mark)) for asked, told in read]
    return [item for item in found if len(item.answer) >= MIN_CHARS]


def _plain(text: str, mark: re.Pattern[str]) -> str:
    return collapse(mark.sub(lambda found: found[1] or "", CODE.sub("", text)))
