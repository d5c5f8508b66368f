// The official SDK for Node drives the OpenAI surface: base URL and key, nothing else.
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import OpenAI, { toFile } from 'openai';
import { openShop } from './shop.mjs';

const PNG = Buffer.from(
  'iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==',
  'base64',
);
const MESSAGES = [{ role: 'user', content: 'Say where the points lead.' }];
let shop;
let client;

before(async () => {
  shop = await openShop();
  client = new OpenAI({ baseURL: shop.base_url, apiKey: shop.key });
});
after(() => shop.close());

const png = (name = 'a.png') => toFile(PNG, name, { type: 'image/png' });
const isPng = (text) => Buffer.from(text, 'base64').subarray(1, 4).toString() === 'PNG';

test('models are listed and retrieved', async () => {
  const names = [];
  for await (const model of client.models.list()) names.push(model.id);
  assert.ok(names.includes('gpt-image-2') && names.includes('dall-e-3'));
  assert.equal((await client.models.retrieve('gpt-5-mini')).id, 'gpt-5-mini');
});

test('a picture comes as base64 or as a link', async () => {
  const one = await client.images.generate({ model: 'gpt-image-2', prompt: 'node: a cat', size: '1024x1024' });
  assert.ok(isPng(one.data[0].b64_json));
  const two = await client.images.generate({ prompt: 'node: two cats', n: 2, response_format: 'url' });
  assert.equal(two.data.length, 2);
  const picture = await fetch(two.data[0].url);
  assert.equal(picture.headers.get('content-type'), 'image/png');
});

test('a picture is streamed with its partial images', async () => {
  const kinds = [];
  let last;
  const stream = await client.images.generate({ model: 'gpt-image-2', prompt: 'node: a stream', stream: true, partial_images: 2 });
  for await (const event of stream) {
    kinds.push(event.type);
    last = event;
  }
  assert.equal(kinds.at(-1), 'image_generation.completed');
  assert.ok(kinds.includes('image_generation.partial_image'));
  assert.ok(isPng(last.b64_json));
});

test('a target without partial images streams its picture too', async () => {
  const kinds = [];
  const stream = await client.images.generate({ model: 'plain-image', prompt: 'node: no previews', stream: true });
  for await (const event of stream) kinds.push(event.type);
  assert.deepEqual(kinds, ['image_generation.completed']);
});

test('pictures are edited: one, several, with a mask, streamed', async () => {
  const one = await client.images.edit({ model: 'gpt-image-2', prompt: 'node: edit one', image: await png() });
  assert.ok(isPng(one.data[0].b64_json));
  const several = await client.images.edit({
    model: 'gpt-image-2',
    prompt: 'node: edit several',
    image: [await png('a.png'), await png('b.png')],
    mask: await png('mask.png'),
  });
  assert.equal(several.data.length, 1);
  let last;
  const stream = await client.images.edit({ model: 'gpt-image-2', prompt: 'node: edit stream', image: await png(), stream: true });
  for await (const event of stream) last = event;
  assert.equal(last.type, 'image_edit.completed');
});

test('a variation that no target makes is refused by name', async () => {
  await assert.rejects(client.images.createVariation({ model: 'gpt-image-2', image: await png() }), (error) => {
    assert.ok(error instanceof OpenAI.BadRequestError);
    return true;
  });
});

test('a chat completion is whole or streamed', async () => {
  const whole = await client.chat.completions.create({ model: 'gpt-5-mini', messages: MESSAGES });
  assert.ok(whole.choices[0].message.content.length > 0);
  assert.ok(whole.usage.total_tokens > 0);
  let text = '';
  let usage;
  const stream = await client.chat.completions.create({
    model: 'gpt-5-mini',
    messages: MESSAGES,
    stream: true,
    stream_options: { include_usage: true },
  });
  for await (const chunk of stream) {
    text += chunk.choices[0]?.delta?.content ?? '';
    usage = chunk.usage ?? usage;
  }
  assert.ok(text.length > 0);
  assert.ok(usage.completion_tokens > 0);
});

test('a video is created, polled, listed, loaded, and deleted', async () => {
  const made = await client.videos.create({ model: 'veo-3', prompt: 'node: a train', seconds: '4', size: '1280x720' });
  assert.match(made.id, /^video_[0-9a-f]{32}$/);
  assert.equal(made.object, 'video');
  const video = await client.videos.poll?.(made.id) ?? await ended(made.id);
  assert.equal(video.status, 'completed');
  const ids = [];
  for await (const one of client.videos.list({ limit: 1 })) ids.push(one.id);
  assert.ok(ids.includes(made.id));
  const content = await client.videos.downloadContent(made.id);
  assert.ok((await content.arrayBuffer()).byteLength > 1000);
  const gone = await client.videos.delete(made.id);
  assert.equal(gone.deleted, true);
  await assert.rejects(client.videos.downloadContent(made.id), OpenAI.NotFoundError);
});

async function ended(id) {
  for (;;) {
    const video = await client.videos.retrieve(id);
    if (!['queued', 'in_progress'].includes(video.status)) return video;
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

test('errors become the exceptions of the SDK', async () => {
  await assert.rejects(client.images.generate({ model: 'nobody', prompt: 'x' }), (error) => {
    assert.ok(error instanceof OpenAI.NotFoundError);
    assert.equal(error.code, 'model_not_found');
    assert.ok(error.requestID.startsWith('req_'));
    return true;
  });
  await assert.rejects(client.images.generate({ prompt: 'x', size: 'large' }), (error) => {
    assert.ok(error instanceof OpenAI.BadRequestError);
    assert.equal(error.param, 'size');
    return true;
  });
  const stranger = new OpenAI({ baseURL: shop.base_url, apiKey: 'pm_wrong' });
  await assert.rejects(stranger.models.list(), OpenAI.AuthenticationError);
});

test('the same key is one picture and one bill', async () => {
  const options = { headers: { 'Idempotency-Key': 'node-1' } };
  const ask = () => client.images.generate({ model: 'plain-image', prompt: 'node: once' }, options);
  const [first, again] = [await ask(), await ask()];
  assert.equal(first.data[0].b64_json, again.data[0].b64_json);
  const bill = await shop.bill('apiyi');
  assert.equal(bill.jobs.filter((job) => job.prompt === 'node: once').length, 1);
});
