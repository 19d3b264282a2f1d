"""Streams as client libraries read them: text, a tool call and usage, to the end, without an error or a warning."""

import warnings

import pytest
from langchain_openai import ChatOpenAI

from harness.expect import WEATHER, user

TEXT = "one two three né 🦀"
ASKED = user(TEXT)


@pytest.fixture(autouse=True)
def without_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


@pytest.fixture(params=[False, True], ids=["without-usage", "with-usage"])
def usage(request):
    return request.param


def options(usage: bool) -> dict:
    return {"stream_options": {"include_usage": True}} if usage else {}


def check_text(final, usage: bool):
    assert final.model == "plain"
    assert (final.choices[0].message.content, final.choices[0].finish_reason) == (TEXT, "stop")
    assert (final.usage is not None and final.usage.total_tokens > 0) == usage


def check_call(final):
    (call,) = final.choices[0].message.tool_calls
    assert final.choices[0].finish_reason == "tool_calls"
    assert (call.function.name, call.function.parsed_arguments) == (WEATHER["function"]["name"], {"city": "Bonn"})


def strict() -> dict:
    return {**WEATHER, "function": {**WEATHER["function"], "strict": True}}


def test_the_helper_of_the_sdk(alice, usage):
    with alice.chat.completions.stream(model="plain", messages=ASKED, **options(usage)) as stream:
        events = list(stream)
        check_text(stream.get_final_completion(), usage)
    deltas = "".join(event.delta for event in events if event.type == "content.delta")
    assert (deltas, [event.content for event in events if event.type == "content.done"]) == (TEXT, [TEXT])


def test_a_tool_call_with_the_helper(alice, usage):
    asked = {"model": "tooled", "messages": user("weather?"), "tools": [strict()]}
    with alice.chat.completions.stream(**asked, **options(usage)) as stream:
        events = list(stream)
        check_call(stream.get_final_completion())
    (done,) = [event for event in events if event.type == "tool_calls.function.arguments.done"]
    assert done.parsed_arguments == {"city": "Bonn"}


async def test_the_asynchronous_helper(configured, usage):
    async with configured.gateway.async_client() as client:
        async with client.chat.completions.stream(model="plain", messages=ASKED, **options(usage)) as stream:
            assert "".join([event.delta async for event in stream if event.type == "content.delta"]) == TEXT
            check_text(await stream.get_final_completion(), usage)
        asked = {"model": "tooled", "messages": user("weather?"), "tools": [strict()]}
        async with client.chat.completions.stream(**asked, **options(usage)) as stream:
            await stream.until_done()
            check_call(await stream.get_final_completion())


def langchain(configured, model: str, usage: bool) -> ChatOpenAI:
    gateway = configured.gateway
    return ChatOpenAI(model=model, api_key=gateway.bearer, base_url=f"{gateway.root}/v1", max_retries=0, stream_usage=usage)


def total(chunks):
    whole = chunks[0]
    for chunk in chunks[1:]:
        whole += chunk
    return whole


def check_message(message, usage: bool, reason: str):
    assert message.response_metadata["finish_reason"] == reason
    assert (message.usage_metadata is not None and message.usage_metadata["total_tokens"] > 0) == usage


def test_langchain(configured, usage):
    message = total(list(langchain(configured, "plain", usage).stream(TEXT)))
    assert message.content == TEXT
    check_message(message, usage, "stop")


def test_a_tool_call_of_langchain(configured, usage):
    model = langchain(configured, "tooled", usage).bind_tools([WEATHER])
    message = total(list(model.stream("weather?")))
    (call,) = message.tool_calls
    assert (call["name"], call["args"], message.invalid_tool_calls) == (WEATHER["function"]["name"], {"city": "Bonn"}, [])
    check_message(message, usage, "tool_calls")


async def test_asynchronous_langchain(configured):
    for usage in (False, True):  # in one loop: the library keeps its connections beyond the end of a test
        message = total([chunk async for chunk in langchain(configured, "plain", usage).astream(TEXT)])
        assert message.content == TEXT
        check_message(message, usage, "stop")
        model = langchain(configured, "tooled", usage).bind_tools([WEATHER])
        message = total([chunk async for chunk in model.astream("weather?")])
        assert message.tool_calls[0]["args"] == {"city": "Bonn"}
        check_message(message, usage, "tool_calls")
