// openai-node: chats, whole and streamed, tools, completions, embeddings, models, responses.
//
//     node openai_node.mjs URL MODEL        with SLOTWISE_CLIENTS_NODE, a folder where openai is installed
//
// Prints what run_checks.py prints: the trace of each check, empty where it held.

import assert from "node:assert/strict";
import { createRequire } from "node:module";
import { join } from "node:path";

const [url, model] = process.argv.slice(2);
const { OpenAI } = createRequire(join(process.env.SLOTWISE_CLIENTS_NODE, "package.json"))("openai");
const client = new OpenAI({ baseURL: url + "/v1", apiKey: "none", maxRetries: 0 });

const messages = [{ role: "user", content: "Name three colours of autumn leaves." }];
const plain = { model, messages, max_tokens: 24, temperature: 0 };
const tools = [
  {
    type: "function",
    function: {
      name: "weather",
      parameters: {
        type: "object",
        properties: { city: { type: "string", enum: ["Paris", "Oslo"] } },
        required: ["city"],
        additionalProperties: false,
      },
    },
  },
];

const checks = {
  async a_whole_answer() {
    const answer = await client.chat.completions.create(plain);
    assert.ok(answer.choices[0].message.content);
    assert.ok(["stop", "length"].includes(answer.choices[0].finish_reason));
    assert.equal(answer.usage.total_tokens, answer.usage.prompt_tokens + answer.usage.completion_tokens);
  },

  async a_stream_adds_up_to_the_whole() {
    const whole = await client.chat.completions.create(plain);
    let text = "";
    let usage = null;
    const options = { stream: true, stream_options: { include_usage: true } };
    for await (const chunk of await client.chat.completions.create({ ...plain, ...options })) {
      text += chunk.choices[0]?.delta?.content ?? "";
      usage = chunk.usage ?? usage;
    }
    assert.equal(text, whole.choices[0].message.content);
    assert.deepEqual(usage, whole.usage);
  },

  async the_streaming_helper_sees_the_same() {
    const whole = await client.chat.completions.create(plain);
    const runner = client.chat.completions.stream(plain);
    let text = "";
    runner.on("content", (delta) => (text += delta));
    const final = await runner.finalChatCompletion();
    assert.equal(text, whole.choices[0].message.content);
    assert.equal(final.choices[0].message.content, text);
    assert.equal(final.choices[0].finish_reason, whole.choices[0].finish_reason);
  },

  async a_tool_that_must_be_called() {
    for (const tool_choice of ["required", { type: "function", function: { name: "weather" } }]) {
      const request = { ...plain, max_tokens: 80, tools, tool_choice };
      const whole = (await client.chat.completions.create(request)).choices[0].message;
      const streamed = await client.chat.completions.stream(request).finalMessage();
      assert.ok(whole.tool_calls.length > 0);
      const names = (message) => message.tool_calls.map((call) => [call.function.name, call.function.arguments]);
      assert.deepEqual(names(streamed), names(whole));
      for (const [name, text] of names(whole)) {
        assert.equal(name, "weather");
        assert.ok(["Paris", "Oslo"].includes(JSON.parse(text).city));
      }
    }
  },

  async the_result_of_a_tool_goes_back() {
    const request = { ...plain, max_tokens: 80, tools, tool_choice: "required" };
    const asked = (await client.chat.completions.create(request)).choices[0].message;
    const results = asked.tool_calls.map((call) => ({ role: "tool", tool_call_id: call.id, content: "4 degrees" }));
    const then = { ...plain, messages: [...messages, asked, ...results], tools, tool_choice: "none" };
    assert.ok((await client.chat.completions.create(then)).choices[0].message.content);
  },

  async a_completion() {
    const request = { model, prompt: "The capital of France is", max_tokens: 8, temperature: 0 };
    const whole = await client.completions.create(request);
    let text = "";
    for await (const chunk of await client.completions.create({ ...request, stream: true })) {
      text += chunk.choices[0].text;
    }
    assert.equal(text, whole.choices[0].text);
  },

  async an_embedding_in_both_encodings() {
    const [encoded] = (await client.embeddings.create({ model, input: "autumn" })).data;
    const [floats] = (await client.embeddings.create({ model, input: "autumn", encoding_format: "float" })).data;
    assert.ok(floats.embedding.length > 100);
    floats.embedding.forEach((value, index) => assert.ok(Math.abs(value - encoded.embedding[index]) < 1e-6));
  },

  async the_models() {
    const listed = [];
    for await (const entry of client.models.list()) listed.push(entry.id);
    assert.deepEqual(listed, [model]);
  },

  async a_response() {
    const request = { model, input: "Name a colour.", max_output_tokens: 16, temperature: 0 };
    const whole = await client.responses.create(request);
    let text = "";
    for await (const event of await client.responses.create({ ...request, stream: true })) {
      if (event.type === "response.output_text.delta") text += event.delta;
    }
    assert.ok(text);
    assert.equal(text, whole.output_text);
  },

  async errors_are_the_clients_own() {
    await assert.rejects(client.chat.completions.create({ ...plain, model: "other" }), OpenAI.NotFoundError);
    await assert.rejects(client.chat.completions.create({ ...plain, temperature: 3 }), OpenAI.BadRequestError);
  },

  async a_stream_can_be_left() {
    const stream = await client.chat.completions.create({ ...plain, max_tokens: 2000, stream: true });
    for await (const chunk of stream) {
      assert.equal(chunk.choices[0].delta.role, "assistant");
      break;
    }
    assert.ok((await client.chat.completions.create(plain)).choices[0].message.content);
  },
};

const traces = {};
for (const [name, check] of Object.entries(checks)) {
  try {
    await check();
    traces[name] = "";
  } catch (error) {
    traces[name] = error.stack;
  }
}
console.log(JSON.stringify({ checks: traces }));
