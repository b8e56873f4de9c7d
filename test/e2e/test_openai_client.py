"""The official Python client against the daemon."""

import asyncio

import openai
import pytest
from conftest import LONG, picture_messages

HELLO = [{"role": "user", "content": "Who are you?"}]


@pytest.fixture(scope="module")
def client(daemon):
    with openai.OpenAI(base_url=daemon.url, api_key="none", max_retries=0) as c:
        yield c


def test_models(client, daemon):
    models = client.models.list().data
    assert models[0].id == daemon.model_name()
    assert client.models.retrieve(daemon.model_name()).owned_by == "vispecd"


def test_an_answer_about_a_picture(client, daemon, red_square):
    answer = client.chat.completions.create(
        model=daemon.model_name(), messages=picture_messages(red_square), max_completion_tokens=40
    )
    assert answer.choices[0].message.role == "assistant"
    assert answer.choices[0].message.content
    assert answer.choices[0].finish_reason in ("stop", "length")
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert answer.usage.prompt_tokens_details.cached_tokens == 0
    assert answer.model_extra["timings"]["predicted_n"] == answer.usage.completion_tokens


def test_a_stream_says_what_the_whole_answer_says(client, daemon, red_square):
    fields = {
        "model": daemon.model_name(),
        "messages": picture_messages(red_square, "Describe the picture."),
        "seed": 7,
        "max_completion_tokens": 60,
    }
    whole = client.chat.completions.create(**fields)
    text, finish, usage, roles = "", None, None, []
    for chunk in client.chat.completions.create(**fields, stream=True, stream_options={"include_usage": True}):
        if chunk.usage:
            usage = chunk.usage
            assert chunk.choices == []
            continue
        roles.append(chunk.choices[0].delta.role)
        text += chunk.choices[0].delta.content or ""
        finish = chunk.choices[0].finish_reason or finish
    assert text == whole.choices[0].message.content
    assert finish == whole.choices[0].finish_reason
    assert usage == whole.usage
    assert roles[0] == "assistant"
    assert not any(roles[1:])


def test_the_stream_helper(client, daemon):
    with client.chat.completions.stream(model=daemon.model_name(), messages=HELLO, temperature=0) as stream:
        deltas = [e.delta for e in stream if e.type == "content.delta"]
        final = stream.get_final_completion()
    assert "".join(deltas) == final.choices[0].message.content


def test_logprobs(client, daemon):
    answer = client.chat.completions.create(
        model=daemon.model_name(), messages=HELLO, max_completion_tokens=5, logprobs=True, top_logprobs=2, temperature=0
    )
    content = answer.choices[0].logprobs.content
    assert len(content) == answer.usage.completion_tokens
    for entry in content:
        assert entry.logprob <= 0
        assert len(entry.top_logprobs) == 2
        assert abs(entry.top_logprobs[0].logprob - entry.logprob) < 1e-4  # greedy takes the best


def test_stop_strings_are_not_in_the_text(client, daemon):
    fields = {"model": daemon.model_name(), "messages": HELLO, "temperature": 0, "max_completion_tokens": 30}
    text = client.chat.completions.create(**fields).choices[0].message.content
    stop = text.strip()[2:6]
    cut = client.chat.completions.create(**fields, stop=[stop]).choices[0]
    assert cut.finish_reason == "stop"
    assert cut.message.content == text[: text.index(stop)]


def test_extensions(client, daemon):
    answer = client.chat.completions.create(
        model=daemon.model_name(),
        messages=HELLO,
        max_completion_tokens=12,
        extra_body={"ignore_eos": True, "top_k": 1, "speculative": False, "return_token_ids": True},
    )
    assert len(answer.choices[0].model_extra["token_ids"]) == 12
    assert answer.model_extra["timings"]["rounds"] == 11
    assert answer.model_extra["timings"]["draft_n"] == 0


def test_error_classes(client, daemon):
    with pytest.raises(openai.NotFoundError) as e:
        client.chat.completions.create(model="nobody", messages=HELLO)
    assert e.value.code == "model_not_found"
    assert e.value.request_id
    with pytest.raises(openai.BadRequestError) as e:
        client.chat.completions.create(model=daemon.model_name(), messages=HELLO, temperature=9)
    assert e.value.param == "temperature"
    with pytest.raises(openai.BadRequestError) as e:
        client.chat.completions.create(model=daemon.model_name(), messages=picture_messages("https://example.org/a.png"))
    assert e.value.code == "invalid_image_url"
    with pytest.raises(openai.BadRequestError) as e:
        client.chat.completions.create(
            model=daemon.model_name(), messages=[{"role": "user", "content": "word " * 100000}]
        )
    assert e.value.code == "context_length_exceeded"
    with pytest.raises(openai.NotFoundError):
        client.responses.create(model=daemon.model_name(), input="hi")


def test_a_full_server_is_an_internal_server_error(start):
    daemon = start("--max-num-seqs", "1", "--max-queue", "1")
    streams = [daemon.open_stream(**LONG)]
    with openai.OpenAI(base_url=daemon.url, api_key="none", max_retries=0) as client:

        async def ask():
            async with openai.AsyncOpenAI(base_url=daemon.url, api_key="none", max_retries=0) as many:
                asks = [many.chat.completions.create(model=daemon.model_name(), messages=HELLO, max_tokens=1) for _ in range(4)]
                return await asyncio.gather(*asks, return_exceptions=True)

        answers = asyncio.run(ask())
        refused = [a for a in answers if isinstance(a, openai.InternalServerError)]
        assert refused
        assert all(a.code == "server_overloaded" for a in refused)
        for connection, response in streams:
            response.close()
            connection.close()
        assert client.chat.completions.create(model=daemon.model_name(), messages=HELLO, max_tokens=1)


def test_sixteen_at_once(daemon, red_square):
    async def ask_all():
        async with openai.AsyncOpenAI(base_url=daemon.url, api_key="none", max_retries=0) as client:

            async def ask(i):
                messages = picture_messages(red_square) if i % 2 else HELLO
                fields = {"model": daemon.model_name(), "messages": messages, "seed": i // 4, "max_completion_tokens": 24}
                if i % 4 < 2:
                    return (await client.chat.completions.create(**fields)).choices[0].message.content
                stream = await client.chat.completions.create(**fields, stream=True)
                return "".join([c.choices[0].delta.content or "" async for c in stream])

            return await asyncio.gather(*(ask(i) for i in range(16)))

    answers = asyncio.run(ask_all())
    for i in range(0, 16, 4):  # the same request, whole and as a stream
        assert answers[i] == answers[i + 2]
        assert answers[i + 1] == answers[i + 3]
