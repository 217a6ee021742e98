"""When answers agree: ties may change places, nothing else may."""

from taskvec.integrations.cli.demo.agreement import Answer, disagreements

EXPECTED = [Answer("a", "A", 0.9), Answer("b", "B", 0.7), Answer("c", "C", 0.5)]


def differences(*given: tuple[str, float]) -> list[str]:
    answers = [Answer(identity, identity.upper(), score) for identity, score in given]
    return disagreements({"first": EXPECTED, "other": answers})


def test_equal_answers_agree() -> None:
    assert differences(("a", 0.9), ("b", 0.7), ("c", 0.5)) == []


def test_scores_may_differ_by_rounding() -> None:
    assert differences(("a", 0.9004), ("b", 0.7), ("c", 0.4997)) == []


def test_another_score_disagrees_and_is_shown() -> None:
    assert differences(("a", 0.9), ("b", 0.69), ("c", 0.5)) == [
        "other and first: B scores 0.6900, not 0.7000"
    ]


def test_another_passage_disagrees_and_is_shown() -> None:
    assert differences(("a", 0.9), ("x", 0.7), ("c", 0.5)) == [
        "other and first: X (0.7000) is not among the answers"
    ]


def test_a_tie_across_the_end_of_the_list_agrees() -> None:
    assert differences(("a", 0.9), ("b", 0.7), ("x", 0.5)) == []


def test_fewer_answers_disagree() -> None:
    assert differences(("a", 0.9)) == ["other and first: 1 answers, not 3"]


def test_another_order_without_a_tie_disagrees() -> None:
    assert differences(("b", 0.7), ("a", 0.9), ("c", 0.5)) != []


def test_ties_may_change_places() -> None:
    tied = [Answer("a", "A", 0.9), Answer("b", "B", 0.9)]
    assert disagreements({"first": tied, "other": tied[::-1]}) == []


def test_no_answers_at_all_agree() -> None:
    assert disagreements({"first": [], "other": []}) == []
