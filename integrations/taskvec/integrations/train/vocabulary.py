"""XLM-R's pieces cut down to those that a corpus needs, and the tokenizer that they make."""

import io
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence

import sentencepiece
from sentencepiece import sentencepiece_model_pb2
from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
)

from taskvec.core.errors import InputError
from taskvec.integrations.train.teachers.e5 import Piece

# Of the published vocabulary, in its order; the mask is its last entry.
SPECIALS = ("<s>", "<pad>", "</s>", "<unk>")
MASK = "<mask>"
UNKNOWN = SPECIALS.index("<unk>")


def character_map() -> bytes:
    """Characters and what they are normalised to: the table of `nmt_nfkc`, as XLM-R uses it."""
    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["a"]),
        model_writer=written,
        model_type="char",
        vocab_size=5,
        normalization_rule_name="nmt_nfkc",
        minloglevel=2,
    )
    # Its names are made while it is imported.
    model = sentencepiece_model_pb2.ModelProto.FromString(written.getvalue())  # type: ignore[attr-defined]
    table: bytes = model.normalizer_spec.precompiled_charsmap
    return table


def unigram_tokenizer(pieces: Sequence[Piece]) -> Tokenizer:
    """XLM-R's tokenizer over some of its pieces, SPECIALS first and MASK last.

    A text becomes `<s> … </s>`; white space collapses, and characters are normalised as
    sentencepiece's `nmt_nfkc` does. A piece's place is its id. Raises InputError where the
    special ones are not in their places.
    """
    texts = [piece.text for piece in pieces]
    if tuple(texts[: len(SPECIALS)]) != SPECIALS or texts[-1] != MASK:
        raise InputError(f"pieces must start with {', '.join(SPECIALS)} and end with {MASK}")
    tokenizer = Tokenizer(
        models.Unigram([(piece.text, piece.score) for piece in pieces], unk_id=UNKNOWN)
    )
    tokenizer.normalizer = normalizers.Precompiled(character_map())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()]
    )
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.add_special_tokens([*SPECIALS, AddedToken(MASK, lstrip=True, special=True)])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>",
        pair="<s> $A </s> </s> $B </s>",
        special_tokens=[(text, SPECIALS.index(text)) for text in ("<s>", "</s>")],
    )
    return tokenizer


def count_pieces(tokenizer: Tokenizer, texts: Iterable[str]) -> Counter[int]:
    """How often each id occurs in some texts, specials included."""
    counts: Counter[int] = Counter()
    for encoding in tokenizer.encode_batch_fast(list(texts)):
        counts.update(encoding.ids)
    return counts


def choose(
    pieces: Sequence[Piece],
    counts: Mapping[str, Mapping[int, float]],
    shares: Mapping[str, float],
    size: int,
) -> list[int]:
    """Ids of the `size` pieces that keep most tokens of a mix of languages, ascending.

    counts: of each language's text by id; shares: each language's weight. The specials stay,
    and every single character that occurs, so that what is dropped can still be spelt.
    """
    weight: dict[int, float] = defaultdict(float)
    for language, found in counts.items():
        total = sum(found.values())
        for index, count in found.items():
            weight[index] += shares[language] * count / total
    kept = {*range(len(SPECIALS)), len(pieces) - 1}
    single = [index for index in weight if len(pieces[index].text) == 1]
    kept.update(sorted(single, key=lambda index: -weight[index])[: size // 4])
    for index in sorted(weight, key=lambda index: -weight[index]):
        if len(kept) == size:
            break
        kept.add(index)
    return sorted(kept)
