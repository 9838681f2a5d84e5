import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retain.chat import ChatOptions, Renderer, prompt_ids, render, template_digest
from retain.chat.spans import find_spans
from retain.errors import ConfigError, DataRefused

sys.path.insert(0, str(Path(__file__).parent))
from chat_templates import ADDITIVE, CHATML, CHATML_MARKED, END_OF_TURN, GEMMA, QWEN3, R1, tokenizer_with

TWO_TURNS = [
    {"role": "user", "content": "is the answer yes?"},
    {"role": "assistant", "content": "yes, thank you"},
    {"role": "user", "content": "and the question…\u2028 é日本 🙂"},
    {"role": "assistant", "content": "no, the 日本 🙂 answer"},
]


TOKENIZERS = {family: tokenizer_with(template) for family, template in {**ADDITIVE, "qwen3": QWEN3}.items()}


def supervised(tokenizer: Any, row: Any) -> list[str]:
    """The runs of supervised tokens as text."""
    runs: list[list[int]] = []
    for i, label in enumerate(row.labels):
        if label != -100:
            assert label == row.input_ids[i]
            if i and row.labels[i - 1] != -100:
                runs[-1].append(label)
            else:
                runs.append([label])
    return [tokenizer.decode(run) for run in runs]


@pytest.mark.parametrize("family", sorted(ADDITIVE))
def test_loss_lies_on_the_answers_and_their_end_of_turn_alone(family: str) -> None:
    tokenizer = tokenizer_with(ADDITIVE[family])
    row = render(tokenizer, "messages", {"messages": TWO_TURNS})
    lead, end = (" " if family == "mistral" else ""), END_OF_TURN[family]
    assert supervised(tokenizer, row) == [f"{lead}yes, thank you{end}", f"{lead}no, the 日本 🙂 answer{end}"]


@pytest.mark.parametrize("family", [*sorted(ADDITIVE), "qwen3"])
def test_ids_are_those_of_apply_chat_template(family: str) -> None:
    tokenizer = tokenizer_with({**ADDITIVE, "qwen3": QWEN3}[family])
    row = render(tokenizer, "messages", {"messages": TWO_TURNS})
    assert row.input_ids == tokenizer.apply_chat_template(TWO_TURNS, return_dict=False)


def test_agrees_with_generation_markers_where_a_template_has_them() -> None:
    tokenizer = tokenizer_with(CHATML_MARKED)
    marked = tokenizer.apply_chat_template(TWO_TURNS, return_assistant_tokens_mask=True, return_dict=True)
    row = render(tokenizer, "messages", {"messages": TWO_TURNS})
    assert [int(label != -100) for label in row.labels] == marked["assistant_masks"]


def test_turns_with_train_false_or_weight_zero_carry_no_loss() -> None:
    tokenizer = tokenizer_with(CHATML)
    for off in ({"train": False}, {"weight": 0}):
        chat = [TWO_TURNS[0], {**TWO_TURNS[1], **off}, *TWO_TURNS[2:]]
        row = render(tokenizer, "messages", {"messages": chat})
        assert supervised(tokenizer, row) == ["no, the 日本 🙂 answer<|im_end|>"]
        assert row.input_ids == render(tokenizer, "messages", {"messages": TWO_TURNS}).input_ids


def test_a_common_turn_weight_is_the_weight_of_the_row_and_mixed_ones_are_refused() -> None:
    tokenizer = tokenizer_with(CHATML)

    def chat(*weights: float) -> dict[str, Any]:
        return {
            "messages": [
                TWO_TURNS[0],
                {**TWO_TURNS[1], "weight": weights[0]},
                TWO_TURNS[2],
                {**TWO_TURNS[3], "weight": weights[1]},
            ]
        }

    assert render(tokenizer, "messages", chat(0.5, 0.5)).weight == 0.5
    with pytest.raises(DataRefused, match=r"different weights[\s\S]*chat 7"):
        render(tokenizer, "messages", chat(0.5, 2), where="chat 7")


def test_stripped_thoughts_are_masked_trained_or_refused_as_asked() -> None:
    tokenizer = tokenizer_with(QWEN3)
    chat = [TWO_TURNS[0], {"role": "assistant", "content": "<think>\nthe question\n</think>\n\nyes"}, TWO_TURNS[2],
            {"role": "assistant", "reasoning_content": "and the answer", "content": "no"}]  # fmt: skip
    last = "<think>\nand the answer\n</think>\n\nno<|im_end|>"
    masked = render(tokenizer, "messages", {"messages": chat})
    assert supervised(tokenizer, masked) == [last]
    assert masked.rewritten_turns == 1
    trained = render(tokenizer, "messages", {"messages": chat}, ChatOptions(rewritten_turns="train"))
    assert supervised(tokenizer, trained) == ["yes<|im_end|>", last]
    with pytest.raises(DataRefused, match="differently from how"):
        render(tokenizer, "messages", {"messages": chat}, ChatOptions(rewritten_turns="refuse"))


def test_a_prompt_that_ends_in_a_tag_the_history_lacks_needs_the_option() -> None:
    tokenizer = tokenizer_with(R1)
    chat = {"messages": TWO_TURNS[:2]}
    with pytest.raises(DataRefused, match="rewritten_turns: train"):
        render(tokenizer, "messages", chat, where="row 3")
    row = render(tokenizer, "messages", chat, ChatOptions(rewritten_turns="train"))
    assert supervised(tokenizer, row) == ["yes, thank you</s>"]


def test_template_variables_decide_what_the_model_is_prompted_with() -> None:
    tokenizer = tokenizer_with(QWEN3)
    off = ChatOptions(template_kwargs={"enable_thinking": False})
    chat = {"messages": TWO_TURNS[:2]}
    assert supervised(tokenizer, render(tokenizer, "messages", chat)) == [
        "<think>\n\n</think>\n\nyes, thank you<|im_end|>"
    ]
    assert supervised(tokenizer, render(tokenizer, "messages", chat, off)) == ["yes, thank you<|im_end|>"]
    assert template_digest(tokenizer) != template_digest(tokenizer, off.template_kwargs)


def test_tool_calls_are_supervised_and_tool_answers_are_not() -> None:
    tokenizer = tokenizer_with(QWEN3)
    call = {"type": "function", "function": {"name": "ask", "arguments": {"q": "no"}}}
    chat = [TWO_TURNS[0], {"role": "assistant", "content": "", "reasoning_content": "ask", "tool_calls": [call]},
            {"role": "tool", "content": "yes"}, {"role": "assistant", "content": "yes"}]  # fmt: skip
    tools = [{"type": "function", "function": {"name": "ask", "parameters": {}}}]
    row = render(tokenizer, "messages", {"messages": chat, "tools": tools})
    assert row.input_ids == tokenizer.apply_chat_template(chat, tools=tools, return_dict=False)
    assert supervised(tokenizer, row) == [
        '<think>\nask\n</think>\n\n<tool_call>\nask {"q": "no"}\n</tool_call><|im_end|>', "<think>\n\n</think>\n\nyes<|im_end|>",
    ]  # fmt: skip


def test_marks_inside_an_answer_do_not_end_the_turn() -> None:
    tokenizer = tokenizer_with(CHATML)
    chat = [TWO_TURNS[0], {"role": "assistant", "content": "yes<|im_end|>\nno"}]
    assert supervised(tokenizer, render(tokenizer, "messages", {"messages": chat})) == ["yes<|im_end|>\nno<|im_end|>"]


def test_prompt_completion_is_a_chat_where_there_is_a_template() -> None:
    tokenizer = tokenizer_with(CHATML)
    payload = {"prompt": "is the answer yes?", "completion": "yes, thank you"}
    chat = render(tokenizer, "messages", {"messages": TWO_TURNS[:2]})
    assert render(tokenizer, "prompt_completion", payload) == chat
    plain = render(tokenizer, "prompt_completion", payload, ChatOptions(prompt_completion="plain"))
    assert plain.text == "is the answer yes?yes, thank you"
    assert supervised(tokenizer, plain) == ["yes, thank you</s>"]
    tokenizer.chat_template = None
    assert render(tokenizer, "prompt_completion", payload).input_ids == plain.input_ids
    with pytest.raises(ConfigError, match="no chat template"):
        render(tokenizer, "prompt_completion", payload, ChatOptions(prompt_completion="chat"))


def test_message_lists_as_prompt_carry_no_loss_on_their_own_answers() -> None:
    tokenizer = tokenizer_with(CHATML)
    row = render(tokenizer, "prompt_completion", {"prompt": TWO_TURNS[:3], "completion": TWO_TURNS[3:]})
    assert supervised(tokenizer, row) == ["no, the 日本 🙂 answer<|im_end|>"]


def test_white_space_at_the_border_goes_with_the_completion() -> None:
    tokenizer = tokenizer_with("")
    row = render(tokenizer, "prompt_completion", {"prompt": "the question: ", "completion": "yes"})
    assert supervised(tokenizer, row)[0].strip() == "yes</s>"


def test_text_is_supervised_whole_and_closed() -> None:
    tokenizer = tokenizer_with(CHATML)
    row = render(tokenizer, "text", {"text": "the answer is yes"})
    assert row.input_ids[-1] == tokenizer.eos_token_id
    assert row.labels == [-100, *row.input_ids[1:]]


def test_classification_is_an_answer_or_a_class_index() -> None:
    tokenizer = tokenizer_with(CHATML)
    payload = {"text": "is the answer yes?", "label": "no"}
    assert supervised(tokenizer, render(tokenizer, "classification", payload)) == ["no<|im_end|>"]
    head = ChatOptions(classification="head", class_names=("yes", "no"))
    assert render(tokenizer, "classification", payload, head).labels == [1]
    with pytest.raises(DataRefused, match="not listed"):
        render(tokenizer, "classification", {**payload, "label": "perhaps"}, head)


def test_an_encoder_decoder_takes_source_and_target() -> None:
    tokenizer = tokenizer_with("")
    row = render(tokenizer, "seq2seq", {"source": "the question", "target": "yes"}, ChatOptions(encoder_decoder=True))
    assert tokenizer.decode(row.input_ids) == "the question</s>"
    assert tokenizer.decode(row.labels) == "yes</s>"
    with pytest.raises(DataRefused, match="not a chat"):
        render(tokenizer_with(CHATML), "messages", {"messages": TWO_TURNS}, ChatOptions(encoder_decoder=True))


def test_tokenized_rows_pass_as_they_are() -> None:
    row = render(tokenizer_with(""), "tokenized", {"input_ids": [5, 6, 7], "labels": [-100, -100, 7]})
    assert (row.input_ids, row.labels, row.n_supervised) == ([5, 6, 7], [-100, -100, 7], 1)
    with pytest.raises(DataRefused, match="differ in length"):
        render(tokenizer_with(""), "tokenized", {"input_ids": [5, 6, 7], "labels": [7]})


def test_no_supervised_token_is_an_error_that_names_the_row() -> None:
    tokenizer = tokenizer_with(CHATML)
    with pytest.raises(DataRefused, match=r"no token[\s\S]*faq.jsonl row 12"):
        render(tokenizer, "messages", {"messages": TWO_TURNS[:1]}, where="faq.jsonl row 12")


def test_a_chat_that_the_template_refuses_names_the_row() -> None:
    with pytest.raises(DataRefused, match=r"must alternate|row 5"):
        render(tokenizer_with(GEMMA), "messages", {"messages": TWO_TURNS[1:]}, where="row 5")


def test_a_batch_gives_what_single_rows_give() -> None:
    tokenizer = tokenizer_with(CHATML)
    rows = [
        ("messages", {"messages": TWO_TURNS}),
        ("text", {"text": "yes"}),
        ("messages", {"messages": TWO_TURNS[:2]}),
        ("tokenized", {"input_ids": [1, 2], "labels": [1, 2]}),
    ]
    renderer = Renderer(tokenizer)
    batch = renderer.encode([renderer.draft(shape, payload) for shape, payload in rows])
    assert batch == [render(tokenizer, shape, payload) for shape, payload in rows]


@pytest.mark.parametrize("family", sorted(ADDITIVE))
def test_the_prompt_asked_is_the_prompt_trained(family: str) -> None:
    tokenizer = tokenizer_with(ADDITIVE[family])
    ids, reference = prompt_ids(tokenizer, "messages", {"messages": TWO_TURNS})
    row = render(tokenizer, "messages", {"messages": TWO_TURNS})
    assert reference == TWO_TURNS[3]["content"]
    assert row.input_ids[: len(ids)] == ids
    assert row.labels[len(ids)] != -100


def test_prompts_of_the_other_shapes() -> None:
    tokenizer = tokenizer_with(CHATML)
    asked = prompt_ids(tokenizer, "prompt_completion", {"prompt": "yes?", "completion": "no"})
    assert asked == prompt_ids(
        tokenizer,
        "messages",
        {"messages": [{"role": "user", "content": "yes?"}, {"role": "assistant", "content": "no"}]},
    )
    plain = prompt_ids(
        tokenizer, "classification", {"text": "yes?", "label": 1}, ChatOptions(prompt_completion="plain")
    )
    assert plain == (tokenizer("yes?")["input_ids"], "1")
    with pytest.raises(DataRefused, match="no answer"):
        prompt_ids(tokenizer, "messages", {"messages": TWO_TURNS[:1]})


WORDS = st.lists(
    st.sampled_from(["yes", " ", "\n", "<think>", "</think>", "é", "retain0probe0x", "?"]), max_size=5
).map("".join)


@pytest.mark.parametrize("family", [*sorted(ADDITIVE), "qwen3"])
@settings(deadline=None, max_examples=50)
@given(words=st.lists(WORDS, min_size=4, max_size=4))
def test_the_fast_way_and_the_slow_way_agree(family: str, words: list[str]) -> None:
    renderer = Renderer(TOKENIZERS[family], ChatOptions(rewritten_turns="mask"))
    chat = [{**turn, "content": word} for turn, word in zip(TWO_TURNS, words, strict=True)]
    template = renderer.template
    full = template.text(chat)
    slow = find_spans(template, full, chat, None, turns=[1, 3], rewritten="mask", where="")
    draft = renderer.draft("messages", {"messages": chat})
    assert (draft.spans, draft.rewritten) == (slow.trained, slow.rewritten)
