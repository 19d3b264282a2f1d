"""Chat and completions, with the models that are always there and with routed ones."""

import asyncio
import json
import time

import openai
import pydantic
import pytest

from harness.expect import WEATHER, refused, text_of, user


class Trip(pydantic.BaseModel):
    city: str
    days: int
    by_train: bool


def test_an_answer(client):
    answer = client.chat.completions.create(model="demo", messages=user("Say hello."))
    assert answer.object == "chat.completion"
    assert answer.model == "demo"
    assert answer.choices[0].message.role == "assistant"
    assert answer.choices[0].message.content
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens > 0


async def test_an_answer_of_the_asynchronous_client(bare):
    async with bare.async_client() as client:
        answer = await client.chat.completions.create(model="demo", messages=user("Say hello."))
    assert answer.choices[0].message.content


def test_max_tokens_cuts_the_answer(client):
    answer = client.chat.completions.create(model="demo", messages=user("Say much."), max_tokens=3)
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage.completion_tokens <= 3


def test_json_mode(client):
    answer = client.chat.completions.create(model="demo", messages=user("Answer in JSON."), response_format={"type": "json_object"})
    assert isinstance(json.loads(answer.choices[0].message.content), dict)


def test_an_answer_parsed_into_a_type(client):
    answer = client.chat.completions.parse(model="demo", messages=user("Plan a trip."), response_format=Trip)
    assert isinstance(answer.choices[0].message.parsed, Trip)


def test_completions(client):
    answer = client.completions.create(model="demo", prompt="Once upon a time")
    assert answer.object == "text_completion"
    assert answer.model == "demo"
    assert answer.choices[0].text


def test_completions_stream(client):
    chunks = list(client.completions.create(model="demo", prompt="Once upon a time", stream=True))
    assert "".join(choice.text for chunk in chunks for choice in chunk.choices)
    assert {chunk.model for chunk in chunks} == {"demo"}
    assert all(chunk.usage is None for chunk in chunks)


class TestStream:
    def test_in_several_chunks_over_time(self, client):
        arrivals, chunks = [], []
        for chunk in client.chat.completions.create(model="demo", messages=user("Tell me a lot."), stream=True):
            arrivals.append(time.monotonic())
            chunks.append(chunk)
        assert len(text_of(chunks).split()) > 3
        assert sum(1 for chunk in chunks if chunk.choices and chunk.choices[0].delta.content) > 3
        assert arrivals[-1] - arrivals[0] > 0.05
        assert [choice.finish_reason for chunk in chunks for choice in chunk.choices if choice.finish_reason] == ["stop"]

    def test_each_chunk_is_here_before_the_next_is_made(self, configured, alice):
        words = []
        for chunk in alice.chat.completions.create(model="gated", messages=user("count"), stream=True):
            if chunk.choices and chunk.choices[0].delta.content:
                words.append(chunk.choices[0].delta.content.strip())
                # only now may the backend make the next one
                configured.backend.release()
        assert words == ["one", "two", "three", "four", "five"]

    def test_of_equal_text_to_the_whole_answer(self, alice):
        text = "every  word\tin its place, with äöü and 漢字 and \U0001f600"
        whole = alice.chat.completions.create(model="plain", messages=user(text))
        chunks = list(alice.chat.completions.create(model="plain", messages=user(text), stream=True))
        assert whole.choices[0].message.content == text_of(chunks) == text

    @pytest.mark.parametrize("kind", ["demo", "routed"])
    def test_usage_comes_last_when_asked_for(self, kind, client, alice):
        sdk, model = (client, "demo") if kind == "demo" else (alice, "plain")
        options = {"stream": True, "stream_options": {"include_usage": True}}
        chunks = list(sdk.chat.completions.create(model=model, messages=user("Count the cost."), **options))
        assert chunks[-1].choices == []
        assert chunks[-1].usage.total_tokens > chunks[-1].usage.completion_tokens > 0
        assert all(chunk.usage is None for chunk in chunks[:-1])

    @pytest.mark.parametrize("kind", ["demo", "routed"])
    def test_no_usage_without_asking(self, kind, client, alice):
        sdk, model = (client, "demo") if kind == "demo" else (alice, "plain")
        chunks = list(sdk.chat.completions.create(model=model, messages=user("Count nothing."), stream=True))
        assert all(chunk.usage is None and chunk.choices for chunk in chunks)

    def test_the_backend_is_asked_for_usage_either_way(self, configured, alice):
        list(alice.chat.completions.create(model="plain", messages=user("hi"), stream=True))
        assert configured.backend.last().body["stream_options"]["include_usage"] is True

    def test_helper_gathers_the_answer(self, client):
        with client.chat.completions.stream(model="demo", messages=user("Say hello.")) as stream:
            pieces = [event.delta for event in stream if event.type == "content.delta"]
            answer = stream.get_final_completion()
        assert len(pieces) > 1
        assert answer.choices[0].message.content == "".join(pieces)
        assert answer.model == "demo"

    def test_headers_of_an_event_stream(self, client):
        options = {"model": "demo", "messages": user("hi"), "stream": True}
        with client.chat.completions.with_streaming_response.create(**options) as answer:
            assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
            assert answer.headers["cache-control"] == "no-cache"
            assert answer.headers["x-accel-buffering"] == "no"
            assert "content-encoding" not in answer.headers
            lines = [line for line in answer.iter_lines() if line]
        assert lines[-1] == "data: [DONE]"

    def test_closed_early_it_ends_the_work_of_the_backend(self, configured, alice):
        stream = alice.chat.completions.create(model="endless", messages=user("go on"), stream=True)
        for _ in range(5):
            next(stream)
        stream.close()
        assert configured.backend.reader_gone.wait(3), "the backend still writes"
        assert configured.gateway.healthy()
        assert alice.chat.completions.create(model="plain", messages=user("still there?")).choices[0].message.content == "still there?"

    async def test_cancelled_it_ends_the_work_of_the_backend(self, configured):
        async with configured.gateway.async_client() as client:

            async def read():
                async for _ in await client.chat.completions.create(model="endless", messages=user("go on"), stream=True):
                    started.set()

            started = asyncio.Event()
            task = asyncio.create_task(read())
            await asyncio.wait_for(started.wait(), 10)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        assert await asyncio.to_thread(configured.backend.reader_gone.wait, 3), "the backend still writes"

    async def test_fifty_at_once_do_not_mix(self, configured):
        async with configured.gateway.async_client() as client:

            async def talk(number: int) -> str:
                text = f"caller {number} " + f"w{number} " * 20 + "end"
                chunks = [chunk async for chunk in await client.chat.completions.create(model="plain", messages=user(text), stream=True)]
                return text == text_of(chunks)

            assert all(await asyncio.gather(*(talk(number) for number in range(50))))

    async def test_fifty_at_once_of_the_demo_model(self, bare):
        async with bare.async_client() as client:

            async def talk(number: int) -> bool:
                chunks = [chunk async for chunk in await client.chat.completions.create(model="demo", messages=user(f"n{number}"), stream=True)]
                return chunks[-1].choices[0].finish_reason == "stop" or any(c.finish_reason for k in chunks for c in k.choices)

            assert all(await asyncio.gather(*(talk(number) for number in range(50))))
        assert bare.healthy()


class TestTools:
    NAMED = {"type": "function", "function": {"name": "get_weather"}}

    @pytest.mark.parametrize("kind", ["demo", "routed"])
    def test_call_and_result(self, kind, client, alice):
        sdk, model = (client, "demo") if kind == "demo" else (alice, "tooled")
        asked = user("What is the weather in Bonn?")
        first = sdk.chat.completions.create(model=model, messages=asked, tools=[WEATHER], tool_choice=self.NAMED)
        call = first.choices[0].message.tool_calls[0]
        assert call.type == "function" and call.function.name == "get_weather" and call.id
        assert isinstance(json.loads(call.function.arguments)["city"], str)
        history = [*asked, first.choices[0].message, {"role": "tool", "tool_call_id": call.id, "content": "sunny, 23 degrees"}]
        second = sdk.chat.completions.create(model=model, messages=history, tools=[WEATHER])
        assert "sunny, 23 degrees" in second.choices[0].message.content
        assert second.choices[0].finish_reason == "stop"

    @pytest.mark.parametrize("kind", ["demo", "routed"])
    def test_a_call_arrives_in_deltas(self, kind, client, alice):
        sdk, model = (client, "demo") if kind == "demo" else (alice, "tooled")
        options = {"model": model, "messages": user("What is the weather in Bonn?"), "tools": [WEATHER], "tool_choice": self.NAMED}
        name, arguments, finish = "", "", None
        for chunk in sdk.chat.completions.create(stream=True, **options):
            for choice in chunk.choices:
                finish = choice.finish_reason or finish
                for delta in choice.delta.tool_calls or []:
                    assert delta.index == 0
                    name += delta.function.name or ""
                    arguments += delta.function.arguments or ""
        assert name == "get_weather"
        assert isinstance(json.loads(arguments)["city"], str)
        assert finish in ("tool_calls", "stop")

    def test_helper_gathers_a_call(self, alice):
        options = {"model": "tooled", "messages": user("What is the weather in Bonn?"), "tools": [WEATHER]}
        with alice.chat.completions.stream(**options) as stream:
            for _ in stream:
                pass
            call = stream.get_final_completion().choices[0].message.tool_calls[0]
        assert (call.function.name, json.loads(call.function.arguments)) == ("get_weather", {"city": "Bonn"})

    @pytest.mark.parametrize("arguments", ["{not json", ""])
    def test_arguments_that_are_no_json_are_refused(self, client, arguments):
        call = {"id": "call_1", "type": "function", "function": {"name": "get_weather", "arguments": arguments}}
        history = [*user("hi"), {"role": "assistant", "content": None, "tool_calls": [call]}]
        param = "messages[1].tool_calls[0].function.arguments"
        with refused(openai.BadRequestError, 400, "tool_call_arguments_invalid", param):
            client.chat.completions.create(model="demo", messages=history)
