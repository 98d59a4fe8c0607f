// MQTT 5 as a foreign service uses it: npm `mqtt`, and the MQTT binding of npm `cloudevents`.
"use strict";

const { CloudEvent, MQTT } = require("cloudevents");
const mqtt = require("mqtt");

const [command, address, name] = process.argv.slice(2);
const topic = name.replaceAll(".", "/");
const client = mqtt.connect(`mqtt://${address}`, { protocolVersion: 5 });

/** What the binding wants: the packet's own property, the user properties, and the payload as it came. */
function message(payload, { contentType, userProperties }) {
  const structured = contentType.startsWith("application/cloudevents");
  const isJson = !structured && contentType === "application/json";
  const body = structured || isJson ? payload.toString() : payload;
  return { PUBLISH: { "Content Type": contentType }, headers: { ...userProperties }, body, payload: body };
}

/** The library lists attributes that an event does not have as undefined. */
function present(attributes) {
  return Object.entries(attributes).filter(([, value]) => value !== undefined);
}

function tell(payload, properties) {
  const raw = message(payload, properties);
  if (!MQTT.isEvent(raw)) throw new Error(`no event: ${JSON.stringify(properties)}`);
  const structured = properties.contentType.startsWith("application/cloudevents");
  const { data, data_base64, ...attributes } = MQTT.toEvent(raw);
  const line = { mode: structured ? "structured" : "binary", attributes: {} };
  for (const [key, value] of present(attributes)) line.attributes[key] = String(value);
  if (attributes.datacontenttype === "application/json") {
    line.data = typeof data === "string" ? JSON.parse(data) : data;
    if (!structured) line.payload = payload.toString("base64");
  } else {
    line.payload = data_base64 ?? Buffer.from(data).toString("base64");
  }
  console.log(JSON.stringify(line));
}

async function read() {
  client.on("message", (_, payload, packet) => tell(payload, packet.properties));
  await client.subscribeAsync(topic, { qos: 1 });
  console.log("ready");
}

async function write() {
  let input = "";
  for await (const chunk of process.stdin) input += chunk;
  for (const line of input.split("\n").filter(Boolean).map((text) => JSON.parse(text))) {
    const payload = Buffer.from(line.payload, "base64");
    const type = line.attributes.datacontenttype;
    const data = type === "application/json" ? JSON.parse(payload) : type.startsWith("text/") ? payload.toString() : payload;
    const event = new CloudEvent({ ...line.attributes, data });
    const made = line.mode === "structured" ? MQTT.structured(event) : MQTT.binary(event);
    const raw = made.body instanceof Uint8Array ? Buffer.from(made.body) : made.body;
    const body = Buffer.isBuffer(raw) || typeof raw === "string" ? raw : JSON.stringify(raw);
    const properties = { contentType: made.PUBLISH["Content Type"] };
    // An empty list of user properties makes npm `mqtt` 5.16 wait for ever.
    const headers = present(made.headers).map(([key, value]) => [key, String(value)]);
    if (headers.length > 0) properties.userProperties = Object.fromEntries(headers);
    await client.publishAsync(topic, body, { qos: 1, properties });
  }
  console.log("done");
  await client.endAsync();
}

client.on("connect", () => ({ read, write })[command]().catch((error) => { console.error(error); process.exit(1); }));
client.on("error", (error) => { console.error(error); process.exit(1); });
