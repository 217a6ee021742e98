"""Reading the 4-bit teacher, its pieces cut down, and the student that starts from it."""

import struct
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertModel

from taskvec.core.errors import CheckpointError, InputError
from taskvec.integrations.train import transplant
from taskvec.integrations.train.teachers import e5
from taskvec.integrations.train.teachers.e5 import Piece
from taskvec.integrations.train.vocabulary import choose, count_pieces, unigram_tokenizer

HIDDEN, LAYERS, HEADS, INNER, WORDS, POSITIONS, TYPES = 32, 1, 4, 64, 9, 16, 2
PIECES = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
PIECES += [("▁", -2.0), ("▁ab", -3.0), ("a", -5.0), ("b", -5.0), ("<mask>", 0.0)]


def tensors() -> dict[str, np.ndarray]:
    """Every tensor of the file by its short name."""
    draw = np.random.default_rng(0)

    def some(*shape: int) -> np.ndarray:
        return draw.normal(size=shape).astype(np.float32)

    found = {
        "emb.word": some(WORDS, HIDDEN),
        "emb.pos": some(POSITIONS, HIDDEN),
        "emb.type": some(TYPES, HIDDEN),
        "emb.ln.w": some(HIDDEN),
        "emb.ln.b": some(HIDDEN),
    }
    for part, (rows, columns) in {
        "q": (HIDDEN, HIDDEN),
        "k": (HIDDEN, HIDDEN),
        "v": (HIDDEN, HIDDEN),
        "ao": (HIDDEN, HIDDEN),
        "fi": (INNER, HIDDEN),
        "fo": (HIDDEN, INNER),
    }.items():
        found[f"l0.{part}.w"], found[f"l0.{part}.b"] = some(rows, columns), some(rows)
    for part in ("aln", "oln"):
        found[f"l0.{part}.w"], found[f"l0.{part}.b"] = some(HIDDEN), some(HIDDEN)
    return found


def four_bits(values: np.ndarray) -> tuple[bytes, np.ndarray]:
    """A tensor in blocks of 32 values of 4 bits, and the values that these stand for."""
    data, meant = b"", []
    for block in values.reshape(-1, 32):
        scale = np.float16(np.abs(block).max() / 7)
        levels = [int(np.clip(np.rint(x / np.float32(scale)), -8, 7)) + 8 for x in block]
        data += struct.pack("<e", float(scale))
        data += bytes(levels[i] | levels[i + 16] << 4 for i in range(16))
        meant += [(level - 8) * np.float32(scale) for level in levels]
    return data, np.array(meant, np.float32).reshape(values.shape)


def write_file(path: Path) -> dict[str, np.ndarray]:
    """Write a file of the format; returns its tensors as a reader must find them."""
    head = b"E5S1" + struct.pack(
        "<I7if", 1, HIDDEN, LAYERS, HEADS, INNER, WORDS, POSITIONS, TYPES, 1e-12
    )
    texts = [text.encode() for text, _ in PIECES]
    offsets = np.cumsum([0, *map(len, texts)])
    head += struct.pack("<6i", 8, len(PIECES), 0, 2, 1, 3)
    head += struct.pack("<Q", offsets[-1]) + struct.pack(f"<{len(offsets)}I", *offsets)
    head += struct.pack(f"<{len(PIECES)}f", *(score for _, score in PIECES)) + b"".join(texts)
    head += struct.pack("<iI", 2, 6) + b"normal"
    found = tensors()
    meant, data, index = {}, b"", b""
    entries = []
    for name, values in found.items():
        packed, meant[name] = (
            four_bits(values)
            if name == "emb.word" or name.endswith("q.w")
            else (values.tobytes(), values)
        )
        entries.append((name, values.size, len(data), len(packed)))
        data += packed
    size = sum(2 + len(name) + 1 + 4 + 8 + 8 for name, *_ in entries)
    start = len(head) + 4 + size
    for name, count, offset, length in entries:
        index += struct.pack("<H", len(name)) + name.encode()
        index += struct.pack("<BIQQ", 0, count, start + offset, length)
    path.write_bytes(head + struct.pack("<i", len(entries)) + index + data)
    return meant


def test_the_teachers_file_gives_the_tensors_and_pieces_that_it_holds(tmp_path: Path) -> None:
    path = tmp_path / "e5.bin"
    meant = write_file(path)
    read = e5.read(path)
    assert read.pieces == [Piece(text, pytest.approx(score)) for text, score in PIECES]
    names = {"emb.word": "embeddings.word_embeddings.weight"}
    names |= {"l0.q.w": "encoder.layer.0.attention.self.query.weight"}
    names |= {"l0.fo.w": "encoder.layer.0.output.dense.weight"}
    names |= {"l0.aln.b": "encoder.layer.0.attention.output.LayerNorm.bias"}
    for short, name in names.items():
        np.testing.assert_array_equal(read.tensors[name].numpy(), meant[short])
    hidden = read.model()(torch.tensor([[0, 5, 2]])).last_hidden_state
    assert hidden.shape == (1, 3, HIDDEN)
    assert torch.isfinite(hidden).all()


def test_another_file_and_a_cut_one_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "e5.bin"
    path.write_bytes(b"PK\3\4 something else")
    with pytest.raises(CheckpointError, match="no multilingual-e5-small file"):
        e5.read(path)
    write_file(path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="is damaged"):
        e5.read(path)


def pieces() -> list[Piece]:
    return [Piece(text, score) for text, score in PIECES]


def test_the_tokenizer_normalises_and_wraps_as_the_published_one() -> None:
    tokenizer = unigram_tokenizer(pieces())
    # Full-width letters are the plain ones, and runs of white space are one.
    assert tokenizer.encode("\uff41\uff42   ab").tokens == ["<s>", "▁ab", "▁ab", "</s>"]
    assert tokenizer.encode("ba").tokens == ["<s>", "▁", "b", "a", "</s>"]
    assert tokenizer.encode("q").ids == [0, 4, 3, 2]
    assert tokenizer.encode("a<mask>").ids[-2] == len(PIECES) - 1
    with pytest.raises(InputError, match="must start with <s>"):
        unigram_tokenizer(pieces()[1:])


def test_pieces_are_chosen_by_their_share_in_every_language() -> None:
    known = [*pieces()[:-1], *(Piece(f"▁w{i}", -8.0) for i in range(6)), pieces()[-1]]
    first = {known.index(Piece("a", -5.0)): 1, 8: 90, 9: 9}
    second = {10: 500, 11: 400, 12: 100}
    shares = {"en": 0.5, "de": 0.5}
    kept = choose(known, {"en": Counter(first), "de": Counter(second)}, shares, 10)
    # The specials, the mask, the single letter that occurs, and the four weightiest others.
    assert kept == [0, 1, 2, 3, 6, 8, 10, 11, 12, 14]


def test_pieces_are_counted_with_their_repeats() -> None:
    counts = count_pieces(unigram_tokenizer(pieces()), ["ab", "ab ab"])
    assert counts == {0: 2, 2: 2, 5: 3}


def test_a_student_starts_with_its_teachers_layers_and_folded_embeddings() -> None:
    config = BertConfig(
        vocab_size=WORDS,
        hidden_size=HIDDEN,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=INNER,
        max_position_embeddings=POSITIONS,
    )
    torch.manual_seed(0)
    teacher = BertModel(config, add_pooling_layer=False)
    kept = torch.tensor([0, 1, 2, 5, 7])
    student = transplant.new_student(teacher, kept, {"bos": 0, "pad": 1, "eos": 2})
    tables = teacher.embeddings
    rows = tables.word_embeddings.weight + tables.token_type_embeddings.weight[0]
    positions = tables.position_embeddings.weight
    words = student.embeddings.word_embeddings.weight
    torch.testing.assert_close(words[3], rows[5] + positions.mean(0))
    torch.testing.assert_close(words[0], rows[0] + positions[0])
    torch.testing.assert_close(
        student.get_parameter("layers.1.mlp.fc1.weight"),
        teacher.get_parameter("encoder.layer.1.intermediate.dense.weight"),
    )
    ids = torch.tensor([[0, 3, 4, 2]])
    before = student(ids).last_hidden_state
    transplant.shift_output(student, torch.ones(HIDDEN))
    torch.testing.assert_close(student(ids).last_hidden_state, before + 1)
