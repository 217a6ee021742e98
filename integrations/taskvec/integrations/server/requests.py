"""What clients may send, in the field names of Jina's API and OpenAI's."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self, TypeAlias, get_args

import orjson
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictBool,
    StrictInt,
    ValidationInfo,
    WithJsonSchema,
    model_validator,
)
from pydantic_core import PydanticCustomError

from taskvec.core.tokenizer import clean
from taskvec.integrations.server.near import cure
from taskvec.integrations.server.problems import FAULT, UNKNOWN, kind_of
from taskvec.integrations.server.replies import Kind

IDS_REFUSED = (
    "is a token id: send texts, since each model has token ids of its own (langchain-openai: "
    "check_embedding_ctx_length=False)"
)
KINDS = ", ".join(get_args(Kind))
TEXT_SCHEMA = {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]}
TEXTS_SCHEMA = {
    "anyOf": [
        {"type": "string"},
        {"type": "array", "items": {"anyOf": [{"type": "string"}, TEXT_SCHEMA]}},
    ]
}
Model: TypeAlias = Annotated[str, Field(description="a served model, or NAME@TASK")]


def _read_texts(value: object) -> list[str]:
    if not isinstance(value, list):
        return [_read_text(value, "input")]
    return [_read_text(one, f"input[{number}]") for number, one in enumerate(value)]


def _read_text(value: object, place: str) -> str:
    if isinstance(value, Mapping):
        if list(value) != ["text"]:
            given = orjson.dumps(sorted(value)).decode()
            raise _fault(f'{place} has the fields {given}: expected "text" alone')
        value, place = value["text"], f"{place}.text"
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, list) and value:
        value, place = value[0], f"{place}[0]"
    if isinstance(value, int) and not isinstance(value, bool):
        raise _fault(f"{place} {IDS_REFUSED}")
    raise _fault(f'{place} is {kind_of(value)}: expected a text, or {{"text": …}}')


def _read_kind(value: object, info: ValidationInfo) -> object:
    if isinstance(value, list):
        raise _fault(f"{info.field_name} is an array: a reply has one form, give one of {KINDS}")
    return value


def _fault(message: str) -> PydanticCustomError:
    return PydanticCustomError(FAULT, "{message}", {"message": message})


Texts: TypeAlias = Annotated[list[str], BeforeValidator(_read_texts), WithJsonSchema(TEXTS_SCHEMA)]


def _cleaned(value: object) -> object:
    return clean(value) if isinstance(value, str) else value


CleanText: TypeAlias = Annotated[str, BeforeValidator(_cleaned)]
Form: TypeAlias = Annotated[Kind | None, BeforeValidator(_read_kind)]


class Strict(BaseModel):
    """An object that has no other fields than these: it says what may have been meant."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())

    @model_validator(mode="before")
    @classmethod
    def _check_known(cls, value: object) -> object:
        """Before all else, since a field of another name is also a missing one."""
        for name in value if isinstance(value, Mapping) else ():
            if name not in cls.model_fields:
                found = {"field": name, "cure": cure(name, cls.model_fields)}
                raise PydanticCustomError(UNKNOWN, "unknown field", found)
        return value


class Vectors(Strict):
    """What both ways to ask for vectors have in common."""

    model: Model
    task: str | None = Field(None, description="default: the model's own weights, no LoRA")
    dimensions: StrictInt | None = Field(None, description="default: the model's full dim")
    embedding_type: Form = Field(None, description="default: float")
    normalized: StrictBool | None = Field(
        None, description="true at most: all vectors have unit length"
    )
    user: str | None = Field(None, description="of OpenAI's API; not used")

    @model_validator(mode="after")
    def _check_length(self) -> Self:
        if self.normalized is False:
            raise _fault("normalized is false, but all vectors have unit length: leave it out")
        return self

    @property
    def kind(self) -> Kind:
        """How vectors are to be written."""
        return self.embedding_type or "float"


class EmbeddingsRequest(Vectors):
    """Texts to encode; or the consecutive chunks of one document, with `late_chunking`."""

    input: Texts
    late_chunking: StrictBool | None = Field(
        None, description="all inputs are consecutive chunks of one document, read as a whole"
    )
    truncate: StrictBool | None = Field(
        None, description="cut texts beyond the context, instead of refusing them"
    )
    token_counts: StrictBool | None = Field(
        None,
        description="send each text's number of tokens with its vector, as `tokens`; not with "
        "late_chunking",
    )
    encoding_format: Form = Field(None, description="OpenAI's name for embedding_type")
    encoding_type: Form = Field(None, description="another name for embedding_type")

    @model_validator(mode="after")
    def _check_kinds(self) -> Self:
        kinds = {self.embedding_type, self.encoding_format, self.encoding_type} - {None}
        if len(kinds) > 1:
            raise _fault(
                "embedding_type, encoding_format and encoding_type are one setting: give one"
            )
        return self

    @model_validator(mode="after")
    def _check_counts(self) -> Self:
        if self.token_counts and self.late_chunking:
            raise _fault(
                "token_counts is true, but with late_chunking all inputs are read as one: leave it "
                "out, and see usage"
            )
        return self

    @property
    def kind(self) -> Kind:
        """How vectors are to be written, under whichever name it was asked for."""
        return self.embedding_type or self.encoding_format or self.encoding_type or "float"


class Split(Strict):
    """How the server cuts a document: into sentences, or into chunks of a size.

    characters: of the longest chunk, which is cut at the ends of paragraphs and sentences where
    that is possible. A sentence that is longer is cut as well.
    """

    by: Literal["sentence", "size"] = "size"
    characters: Annotated[StrictInt, Field(ge=16, le=100_000)] = 600


class DocumentInput(Strict):
    """A document and where its chunks are: as spans, as texts, or left to the server."""

    text: CleanText
    spans: list[tuple[StrictInt, StrictInt]] | None = Field(
        None, description="half-open ranges of characters (Unicode code points)"
    )
    chunks: list[CleanText] | None = Field(None, description="the chunks' texts, in order")

    @model_validator(mode="after")
    def _check_one(self) -> Self:
        if self.spans is not None and self.chunks is not None:
            raise _fault("spans and chunks both say where the chunks are: give one")
        return self


def _read_documents(value: Any) -> Any:
    documents = value if isinstance(value, list) else [value]
    return [{"text": one} if isinstance(one, str) else one for one in documents]


class ChunksRequest(Vectors):
    """Documents to chunk late: each is read as a whole, and has one vector per chunk."""

    input: Annotated[list[DocumentInput], BeforeValidator(_read_documents)]
    split: Split | None = Field(None, description="of documents without spans or chunks")
    return_text: StrictBool | None = Field(
        None, description="send each chunk's text back with its span"
    )
