"""Streams as LlamaIndex reads them: text, a tool call and usage, to the end, without an error or a warning."""

import warnings

import pytest
from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.tools import FunctionTool
from llama_index.llms.openai_like import OpenAILike

TEXT = "one two three né 🦀"


@pytest.fixture(autouse=True)
def without_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def model(configured, name: str, usage: bool) -> OpenAILike:
    gateway = configured.gateway
    more = {"stream_options": {"include_usage": True}} if usage else {}
    return OpenAILike(
        model=name, api_key=gateway.bearer, api_base=f"{gateway.root}/v1", is_chat_model=True, is_function_calling_model=True,
        max_retries=0, additional_kwargs=more,
    )


def reports_usage(chunks) -> bool:
    reports = [chunk.raw.usage for chunk in chunks if chunk.raw.usage]
    return bool(reports) and reports[-1].total_tokens > 0


def get_weather(city: str) -> str:
    """The weather in a city."""
    return f"sunny in {city}"


@pytest.mark.parametrize("usage", [False, True])
def test_text(configured, usage):
    chunks = list(model(configured, "plain", usage).stream_chat([ChatMessage(role="user", content=TEXT)]))
    assert (chunks[-1].message.content, "".join(chunk.delta or "" for chunk in chunks)) == (TEXT, TEXT)
    assert reports_usage(chunks) == usage


@pytest.mark.parametrize("usage", [False, True])
def test_a_tool_call(configured, usage):
    llm = model(configured, "tooled", usage)
    tool = FunctionTool.from_defaults(get_weather)
    chunks = list(llm.stream_chat_with_tools([tool], user_msg="weather?"))
    (call,) = llm.get_tool_calls_from_response(chunks[-1])
    assert (call.tool_name, call.tool_kwargs) == ("get_weather", {"city": "Bonn"})
    assert reports_usage(chunks) == usage


async def test_asynchronously(configured):
    for usage in (False, True):
        stream = await model(configured, "plain", usage).astream_chat([ChatMessage(role="user", content=TEXT)])
        chunks = [chunk async for chunk in stream]
        assert chunks[-1].message.content == TEXT
        assert reports_usage(chunks) == usage
