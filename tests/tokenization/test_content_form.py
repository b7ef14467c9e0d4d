"""What is said reaches the model: contents are given to a template as text or as parts, or the template is refused."""

import datetime
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from halfpint.errors import CheckpointError, UnsupportedError
from halfpint.models import opening
from halfpint.pipeline.looking.measurement import conversation_renderer
from halfpint.pipeline.options import GenerateOptions
from halfpint.pipeline.running.text_generation import Chat
from halfpint.tokenization import Tokenizer, load_tokenizer
from halfpint.tokenization.chat_templates import render_chat
from halfpint.tokenization.content_form import in_form

TEMPLATES = Path.home() / ".cache" / "halfpint-tokenizers" / "llama.cpp" / "templates"

TURN = "{% for m in messages %}[{{ m.role }}]%s{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"
EACH_PART = "{% for p in m.content %}{% if p.type == 'text' %}{{ p.text }}{% endif %}{% endfor %}"
TEXT_ONLY = TURN.replace("%s", "{{ '' + m.content }}")

TAKES: dict[str, str] = {
    "text only": TEXT_ONLY,
    "text, parts printed": TURN.replace("%s", "{{ m.content }}"),
    "text, parts dropped": TURN.replace("%s", "{% if m.content is string %}{{ m.content }}{% endif %}"),
    "parts only": TURN.replace("%s", EACH_PART),
    "parts, text refused": TURN.replace(
        "%s", "{% if m.content is string %}{{ raise_exception('no text') }}{% endif %}" + EACH_PART
    ),
    "parts, text dropped": TURN.replace("%s", "{% if m.content is not string %}" + EACH_PART + "{% endif %}"),
    "either": TURN.replace("%s", "{% if m.content is string %}{{ m.content }}{% else %}" + EACH_PART + "{% endif %}"),
    "the first turn as text, others as parts dropped": TURN.replace(
        "%s", "{% if loop.first and m.content is string %}{{ m.content }}{% else %}" + EACH_PART + "{% endif %}"
    ),
    "one turn only": "{% if messages | length > 1 %}{{ raise_exception('one') }}{% endif %}"
    + TURN.replace("%s", EACH_PART),
}

DROPS: dict[str, str] = {
    "constant": "Hello",
    "roles only": TURN.replace("%s", ""),
    "another key": TURN.replace("%s", "{{ m.value }}"),
    "another key of parts": TURN.replace("%s", "{% for p in m.content %}{{ p.words }}{% endfor %}"),
    "assistants only": TURN.replace("%s", "{% if m.role == 'assistant' %}{{ m.content }}{% endif %}"),
}


def with_template(template: str) -> Tokenizer:
    made = load_tokenizer_of(opening.demo_folder())
    return Tokenizer(made.model, made.special, made.before, made.after, template)


def parts(*texts: str) -> list[dict[str, Any]]:
    return [{"type": "text", "text": text} for text in texts]


@pytest.mark.parametrize("content", ["Where is the key?", parts("Where is the key?")])
@pytest.mark.parametrize("name", TAKES)
def test_what_the_user_says_is_in_the_prompt(name: str, content: Any) -> None:
    tokenizer = with_template(TAKES[name])
    messages = [{"role": "user", "content": content}]
    assert tokenizer.apply_chat_template(messages) == "[user]Where is the key?[assistant]"
    assert conversation_renderer(tokenizer)(messages) == "[user]Where is the key?"


@pytest.mark.parametrize("name", [name for name in TAKES if name != "one turn only"])
def test_every_turn_is_in_the_prompt(name: str) -> None:
    said = ["Where?", "Here.", "Thanks"]
    messages = [{"role": role, "content": text} for role, text in zip(("user", "assistant", "user"), said, strict=True)]
    text = with_template(TAKES[name]).apply_chat_template(messages)
    assert text == "[user]Where?[assistant]Here.[user]Thanks[assistant]"


@pytest.mark.parametrize("name", DROPS)
def test_a_template_that_drops_what_the_user_says_is_refused(name: str) -> None:
    tokenizer = with_template(DROPS[name])
    for render in (tokenizer.apply_chat_template, conversation_renderer(tokenizer)):
        with pytest.raises(UnsupportedError, match="drops what the user says"):
            render([{"role": "user", "content": "Where is the key?"}])


def test_parts_are_joined_for_a_template_of_texts() -> None:
    messages = [{"role": "user", "content": parts("One", "Two")}]
    assert with_template(TEXT_ONLY).apply_chat_template(messages) == "[user]One\nTwo[assistant]"
    picture = [{"role": "user", "content": [*parts("One"), {"type": "image"}]}]
    with pytest.raises(CheckpointError, match="concatenate"):
        with_template(TEXT_ONLY).apply_chat_template(picture)


def test_a_template_that_needs_more_than_messages_is_not_refused_for_it() -> None:
    tokenizer = with_template("{% for t in tools %}{{ t.name }}{% endfor %}" + TEXT_ONLY)
    messages = [{"role": "user", "content": "Hi"}]
    assert tokenizer.apply_chat_template(messages, variables={"tools": [{"name": "look"}]}) == "look[user]Hi[assistant]"
    with pytest.raises(CheckpointError, match="NoneType"):
        tokenizer.apply_chat_template(messages)


@pytest.mark.parametrize(
    "system",
    [
        "{% if m.role != 'system' %}{{ m.content }}{% endif %}",
        "{% if m.role == 'system' %}{{ raise_exception('no system') }}{% endif %}{{ m.content }}",
    ],
)
@pytest.mark.parametrize("content", ["Hi", parts("Hi")])
def test_calibration_text_keeps_what_a_system_message_says(system: str, content: Any) -> None:
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": content}]
    text = conversation_renderer(with_template(TURN.replace("%s", system)))(messages)
    assert text.startswith("[user]Be brief.")
    assert text.endswith("Hi")


@pytest.mark.parametrize("key", ["reasoning", "thinking", "reasoning_content"])
@pytest.mark.parametrize("read", ["thinking", "reasoning_content"])
def test_reasoning_is_found_under_either_name(key: str, read: str) -> None:
    template = TURN.replace("%s", "{{ m.content }}{{ m." + read + " }}")
    messages = [{"role": "assistant", "content": "A", key: "B"}, {"role": "user", "content": "C"}]
    assert with_template(template).apply_chat_template(messages) == "[assistant]AB[user]C[assistant]"


@pytest.mark.parametrize("name", ["text only", "parts only", "parts, text refused", "parts, text dropped"])
def test_a_chat_hears_the_user(name: str, tmp_path: Path) -> None:
    shutil.copytree(opening.demo_folder(), tmp_path / "model")
    chat_template(tmp_path / "model", TAKES[name])
    chat = Chat(tmp_path / "model", GenerateOptions(max_tokens=3, temperature=0))
    tokenizer = load_tokenizer_of(tmp_path / "model")
    spelled = tokenizer.encode("[user]Where is the key?[assistant]", add_special=False)
    assert chat.reply("Where is the key?").prompt_tokens == len(spelled)
    chat.close()


@pytest.mark.parametrize("name", DROPS)
def test_a_chat_that_would_not_hear_the_user_does_not_start(name: str, tmp_path: Path) -> None:
    shutil.copytree(opening.demo_folder(), tmp_path / "model")
    chat_template(tmp_path / "model", DROPS[name])
    with pytest.raises(UnsupportedError, match="drops what the user says"):
        Chat(tmp_path / "model", GenerateOptions())


def chat_template(folder: Path, template: str) -> None:
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**settings, "chat_template": template}))


def load_tokenizer_of(folder: Path) -> Tokenizer:
    checkpoint = opening.open_model(folder)
    try:
        return load_tokenizer(checkpoint)
    finally:
        checkpoint.close()


def test_the_clock_is_fixed_unless_it_is_given() -> None:
    tokenizer = with_template("{{ strftime_now('%d %b %Y %H:%M') }}" + TEXT_ONLY)
    messages = [{"role": "user", "content": "Hi"}]
    assert tokenizer.apply_chat_template(messages).startswith("26 Jul 2024 00:00")
    assert conversation_renderer(tokenizer)(messages).startswith("26 Jul 2024 00:00")
    now = datetime.datetime(2031, 2, 3, 4, 5, 6)
    assert tokenizer.apply_chat_template(messages, now=now).startswith("03 Feb 2031 04:05")


def test_a_chat_has_today_s_date(tmp_path: Path) -> None:
    shutil.copytree(opening.demo_folder(), tmp_path / "model")
    chat_template(tmp_path / "model", "{{ strftime_now('%Y-%m-%d') }}" + TEXT_ONLY)
    tokenizer = load_tokenizer_of(tmp_path / "model")
    chat = Chat(tmp_path / "model", GenerateOptions(max_tokens=1, temperature=0))
    before = datetime.date.today()
    chat.reset()
    after = datetime.date.today()
    chat.reply("Hi")
    assert tokenizer.decode(chat._ids).strip() in {f"{day.isoformat()}[user]Hi[assistant]" for day in (before, after)}
    chat.close()


@pytest.mark.skipif(not TEMPLATES.is_dir(), reason=f"{TEMPLATES} is not there")
def test_published_templates_render_as_in_transformers() -> None:
    compiled = pytest.importorskip("transformers.utils.chat_template_utils").render_jinja_template
    specials = (("bos_token", "<s>"), ("eos_token", "</s>"))
    messages = [
        {"role": role, "content": text}
        for role, text in (("user", "One <b> é"), ("assistant", "Two"), ("user", "Three\n"))
    ]
    rendered = 0
    for path in sorted(TEMPLATES.glob("*.jinja")):
        template = path.read_text(encoding="utf-8")
        if "strftime_now" in template:
            continue
        variables = {**dict(specials), "add_generation_prompt": True}
        try:
            (expected,), _ = compiled([messages], chat_template=template, **variables)
        except Exception:  # the template refuses, in whatever words
            with pytest.raises(CheckpointError):
                render_chat(template, {**variables, "messages": messages, "tools": None, "documents": None})
            continue
        given = in_form(template, specials, messages)
        assert render_chat(template, {**variables, "messages": given, "tools": None, "documents": None}) == expected, (
            path
        )
        rendered += 1
    assert rendered > 40
